"""Cells: figures of a simulation, finished cells on disk, and going on with them."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from scenarios import EQUAL, MIXED, write_scenario

from vidur.compare.cell import Cell, simulate_cell, workload_digest
from vidur.compare.executor import Failure, ProcessExecutor
from vidur.compare.figures import METRICS, Objectives, figures_of, imbalance, outstanding
from vidur.compare.policy_file import PolicyFile
from vidur.compare.record import PROBABILITIES, PROMPT_CLASSES, CellRecord
from vidur.compare.scenario import Scenario
from vidur.compare.store import CellStore, figures_of_all
from vidur.config import (
    CustomGlobalSchedulerConfig,
    LORGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    RoundRobinGlobalSchedulerConfig,
    SimulationConfig,
)
from vidur.errors import InputError
from vidur.simulator import simulate

LOR = LORGlobalSchedulerConfig()


# Figures of a simulation.


def test_figures_are_those_of_the_requests() -> None:
    config = dataclasses.replace(Scenario.read("tight_kv"), qps=13.0).configure(
        11, 400, RoundRobinGlobalSchedulerConfig()
    )
    result = simulate(config)
    figures = figures_of(result.recording, Objectives(ttft=0.2, tpot=0.02))
    assert tuple(sorted(figures)) == tuple(sorted(METRICS))
    frame = result.requests.iloc[20:380]
    e2e = frame["completed_at"] - frame["arrived_at"]
    assert figures["mean_e2e"] == pytest.approx(e2e.mean())
    assert figures["p90_ttft"] == pytest.approx(frame["ttft"].quantile(0.9))
    assert figures["p99_tpot"] == pytest.approx(frame["tpot"].quantile(0.99))
    long = frame["ttft"][frame["request_num_prefill_tokens"] > 3000]
    assert figures["long_p99_ttft"] == pytest.approx(long.quantile(0.99))
    met = (frame["ttft"] <= 0.2) & ~(frame["tpot"] > 0.02)
    span = frame["arrived_at"].iloc[-1] - frame["arrived_at"].iloc[0]
    assert figures["goodput"] == pytest.approx(met.sum() / span)
    ends = frame["arrived_at"].iloc[[0, -1]].tolist()
    inside = result.requests[(result.requests["completed_at"] >= ends[0]) & (result.requests["completed_at"] < ends[1])]
    assert figures["throughput"] == pytest.approx(len(inside) / span)
    assert figures["token_throughput"] == pytest.approx(inside["request_num_decode_tokens"].sum() / span)
    assert figures["unserved"] == 0
    assert figures["preemptions"] == result.recording.replicas["num_preemptions"].sum()


def test_imbalance_is_that_of_the_outstanding_requests() -> None:
    scenario = dataclasses.replace(Scenario.read("b88"), qps=20.0)
    recording = simulate(scenario.configure(3, 300, LOR)).recording
    speeds, (begin, end) = np.array([1.0, 1.0, 0.5, 0.5]), (2.0, 12.0)
    moments = np.linspace(begin, end, 20_001)[:-1]
    levels = []
    for replica, speed in enumerate(speeds):
        at, level = outstanding(recording, replica)
        levels.append(np.concatenate([[0.0], level])[np.searchsorted(at, moments, side="right")] / speed)
    x = np.array(levels)
    by_hand = x.std(axis=0).mean() / x.mean()
    assert imbalance(recording, begin, end, speeds) == pytest.approx(by_hand, rel=1e-3)
    assert 0.0 < by_hand < 1.0


def test_what_is_all_on_one_of_two_replicas_is_wholly_uneven(tmp_path: Path) -> None:
    scenario = read(tmp_path)
    recording = simulate(scenario.configure(3, 60, LOR)).recording
    recording.requests["replica"][:] = 1
    assert imbalance(recording, 0.0, recording.end_time) == pytest.approx(1.0)


# What is kept of a cell.


def test_a_record_is_kept_whole(tmp_path: Path) -> None:
    config = read(tmp_path, MIXED).configure(5, 200, LOR)
    record = simulate_cell(Cell("mixed", "lor", 5, config, Objectives(1.0, 0.05)))
    requests = simulate(config).requests
    assert record.load.shape == (2, len(record.load_edges) - 1)
    # Little's law: the integral of the outstanding requests is the sum of the times in the system.
    area = (record.load * np.diff(record.load_edges)).sum()
    assert area == pytest.approx((requests["completed_at"] - requests["arrived_at"]).sum(), rel=1e-6)
    assert record.placements.sum() == 200
    small = requests["request_num_prefill_tokens"] <= PROMPT_CLASSES[0]
    assert record.placements[1, 0] == (small & (requests["replica"] == 1)).sum()
    assert record.quantiles["e2e"][list(PROBABILITIES).index(0.5)] == record.figures["p50_e2e"]
    again = CellRecord.from_document(record.to_document())
    assert str(again.figures) == str(record.figures)
    assert again.to_document() == record.to_document()
    for name in ("load", "load_edges", "placements"):
        assert getattr(again, name) == pytest.approx(getattr(record, name), rel=1e-4)


@pytest.mark.parametrize("name", ["b88", "hw_88", "slow_third", "tight_kv", "c72"])
def test_the_command_of_a_cell_gives_its_configuration(name: str) -> None:
    import shlex

    scenario = dataclasses.replace(Scenario.read(name), qps=20.3)
    router = PPOGlobalSchedulerConfig(beta=40.5)
    config = scenario.configure(1003, 50, router)
    words = shlex.split(Cell(name, "ppo", 1003, config, scenario.objectives).command)
    assert words[:3] == ["python", "-m", "vidur.main"]
    given = SimulationConfig.from_cli(words[3:])
    assert dataclasses.replace(given, metrics_config=config.metrics_config) == config


# Finished cells, and going on with them.


def read(tmp_path: Path, groups: str = EQUAL) -> Scenario:
    return dataclasses.replace(Scenario.read(str(write_scenario(tmp_path / "small.yaml", groups))), qps=12.0)


def cells(scenario: Scenario, count: int = 6) -> list[Cell]:
    return [
        Cell(scenario.name, "lor", seed, scenario.configure(seed, 60, LOR), scenario.objectives)
        for seed in range(4, 4 + count)
    ]


def test_finished_cells_are_kept(tmp_path: Path) -> None:
    its = cells(read(tmp_path))
    counts: list[int] = []

    def stop(count: int) -> None:
        counts.append(count)
        if sum(counts) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ProcessExecutor(1) as executor:
        CellStore(tmp_path / "cells", executor).run(its, stop)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").iterdir()}
    assert len(kept) == 3
    counts.clear()
    with ProcessExecutor(2) as executor:
        store = CellStore(tmp_path / "cells", executor)
        found = figures_of_all(its, store.run(its, counts.append))
        # Three at once from disk, the others one by one.
        assert counts == [3, 1, 1, 1]
        assert all(file.stat().st_mtime_ns == kept[file] for file in kept)
        # As text: there may be a nan, of long prompts.
        assert str(found) == str([simulate_cell(cell).figures for cell in its])
        assert str(found) == str(figures_of_all(its, store.run(its, counts.append)))


def test_a_torn_file_is_simulated_again(tmp_path: Path) -> None:
    its = cells(read(tmp_path), 1)
    with ProcessExecutor(1) as executor:
        store = CellStore(tmp_path, executor)
        found = figures_of_all(its, store.run(its, lambda count: None))
        whole = store.path(its[0]).read_text()
        for text in ("", "{}", "[1]", '{"figures": {}}', whole.replace("mean_ttft", "mean_tttf"), whole[:-20]):
            store.path(its[0]).write_text(text)
            assert str(figures_of_all(its, store.run(its, lambda count: None))) == str(found)


def test_a_cell_is_known_by_its_content(tmp_path: Path) -> None:
    scenario = read(tmp_path)
    cell = cells(scenario)[0]
    ppo = PPOGlobalSchedulerConfig(checkpoint="a.safetensors")
    learned = dataclasses.replace(cell, config=scenario.configure(4, 60, ppo), policy=PolicyFile("a", "1"))
    moved = PPOGlobalSchedulerConfig(checkpoint="elsewhere/b.safetensors")
    assert dataclasses.replace(learned, config=scenario.configure(4, 60, moved)).key == learned.key
    assert dataclasses.replace(learned, policy=PolicyFile("elsewhere", "1")).key == learned.key
    assert dataclasses.replace(cell, point="renamed", router="renamed").key == cell.key
    others = [
        cells(scenario)[1],
        dataclasses.replace(cell, objectives=Objectives(2.0, 0.05)),
        dataclasses.replace(cell, config=scenario.configure(4, 61, LOR)),
        dataclasses.replace(cell, workload=workload_digest(scenario.requests(4, 60))),
        learned,
        dataclasses.replace(learned, policy=PolicyFile("a", "2")),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 7


def test_a_router_of_the_users_is_known_by_its_source(tmp_path: Path) -> None:
    file = tmp_path / "router.py"
    source = Path("docs/examples/fewest_prompts.py").read_text()
    file.write_text(source)
    router = CustomGlobalSchedulerConfig(scheduler=f"{file}:FewestPrompts")

    def key() -> str:
        return Cell("small", "mine", 4, read(tmp_path).configure(4, 60, router), Objectives(1.0, 0.05)).key

    before = key()
    assert key() == before
    file.write_text(source + "\n# Changed.\n")
    assert key() != before
    file.unlink()
    with pytest.raises(InputError, match="there is no"):
        key()


# Executors.


def half(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 2:
        raise InputError(f"{number} is odd")
    return number // 2


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_jobs_that_fail_do_not_sink_the_others() -> None:
    with ProcessExecutor(2) as executor:
        found = dict(executor.run(half, [0, 2, -1, 3, 4, -2, 6, 8, 10]))
        died = Failure("its process died: killed from outside, or out of memory")
        assert found == {
            0: 0, 1: 1, 2: died, 3: Failure("3 is odd"), 4: 2, 5: died, 6: 3, 7: 4, 8: 5,
        }  # fmt: skip
        # The pool is whole again.
        assert dict(executor.run(half, [4])) == {0: 2}
        assert dict(executor.run(half, [])) == {}


def test_other_errors_tell_their_kind() -> None:
    with ProcessExecutor(1) as executor:
        (_, failure), *_ = executor.run(sleep, ["a"])  # type: ignore[list-item]
    assert isinstance(failure, Failure)
    assert failure.error.startswith("TypeError: ")


def test_workers_end_with_an_interrupted_sweep() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ProcessExecutor(2) as executor:
        for _ in executor.run(sleep, [0.0, 60.0, 60.0, 60.0, 60.0]):
            raise KeyboardInterrupt
    assert time.monotonic() - started < 20.0
