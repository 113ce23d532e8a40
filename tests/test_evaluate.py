"""python -m rl.evaluate: scenarios, figures of a simulation, resuming, targets, and the command from end to end."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rl.baselines import HEURISTICS
from rl.checkpoint import policy_path
from rl.evaluate import main
from rl.evaluation_cells import METRICS, Cell, CellStore, Objectives, figures_of
from rl.evaluation_chart import chart_svg
from rl.evaluation_markdown import markdown
from rl.evaluation_results import Results, ScenarioResults, ppo_name
from rl.evaluation_scenario import Scenario, scenario_names
from rl.evaluation_targets import MET, MISSED, OPEN, targets
from rl.evaluation_tuning import TUNING_SEEDS, tune_size_split
from vidur.config import (
    BaseGlobalSchedulerConfig,
    LeastTokensGlobalSchedulerConfig,
    LORGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    RoundRobinGlobalSchedulerConfig,
    SizeSplitGlobalSchedulerConfig,
)
from vidur.errors import InputError
from vidur.request_generator import generate_requests
from vidur.scheduler.global_scheduler import KernelScheduler
from vidur.simulator import Simulator, simulate

SMALL = """
scenario:
  title: small
  load: {load}
{more}cluster_config:
  replica_groups: {groups}
  replica_config: {{model_name: meta-llama/Meta-Llama-3-8B, device: a100}}
request_generator_config:
  type: synthetic
  length_generator_config: {{type: quantile, distribution: azure_conv_2023, max_tokens: 8192}}
  interval_generator_config: {{type: poisson}}
"""
EQUAL, MIXED = "[{num_replicas: 2}]", "[{num_replicas: 1}, {num_replicas: 1, speed: 0.5}]"


def write_scenario(path: Path, groups: str = EQUAL, load: float = 0.9, more: str = "") -> Path:
    path.write_text(SMALL.format(groups=groups, load=load, more=more))
    return path


# Scenarios.


@pytest.mark.parametrize("name", scenario_names())
def test_shipped_scenarios_can_be_simulated(name: str) -> None:
    scenario = Scenario.read(name)
    assert scenario.config.cluster_config.gauge_refresh_interval == 1.0
    recording = simulate(scenario.configure(4, 100, LeastTokensGlobalSchedulerConfig())).recording
    assert (recording.requests["status"] == 1).all()
    assert len(recording.requests["status"]) == 100 * max(1, scenario.num_replicas / 4)


def test_capacity_is_what_the_cluster_completes() -> None:
    # 4 replicas hold their load at 90 % of the capacity and fall behind at 115 %.
    scenario = Scenario.read("a93")
    assert scenario.capacity == pytest.approx(32.0, rel=0.03)

    def growth(load: float) -> float:
        loaded = dataclasses.replace(scenario, header=dataclasses.replace(scenario.header, load=load))
        requests = simulate(loaded.configure(4, 6000, LeastTokensGlobalSchedulerConfig())).recording.requests
        e2e = requests["completed_at"] - requests["arrived_at"]
        return float(e2e[4000:].mean() / e2e[1000:3000].mean())

    assert growth(0.9) < 1.15
    assert growth(1.15) > 1.4


@pytest.mark.parametrize("name", ["a93", "c72"])
def test_requests_arrive_at_the_load(name: str) -> None:
    scenario = Scenario.read(name)
    arrived_at = generate_requests(scenario.configure(7, 100_000).request_generator_config).arrived_at
    assert len(arrived_at) / arrived_at[-1] == pytest.approx(scenario.header.load * scenario.capacity, rel=0.02)


def test_events_are_at_parts_of_the_arrivals() -> None:
    config = Scenario.read("slow_third").configure(5, 300)
    end = generate_requests(config.request_generator_config).arrived_at[-1]
    events = config.cluster_config.replica_events
    assert [(event.action, event.replica, event.factor) for event in events] == [("slow", 1, 3.0), ("slow", 1, 1.0)]
    assert [event.time / end for event in events] == pytest.approx([1 / 3, 2 / 3], abs=1e-3)


def test_tight_memory_preempts() -> None:
    recording = simulate(Scenario.read("tight_kv").configure(4, 1500, LeastTokensGlobalSchedulerConfig())).recording
    assert recording.replicas["num_preemptions"].sum() > 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster_config: {num_replicas: 2}\n", "the key scenario is missing"),
        ("scenario: {title: x}\n", "load is missing"),
        ("scenario: {title: x, load: high}\n", "scenario.load: expected a number"),
        ("scenario: {title: x, load: 0.9, laod: 1}\n", "'laod': did you mean load"),
        (
            "scenario: {title: x, load: 0.9}\ncluster_config: {num_replica: 2}\n",
            "did you mean cluster_config.num_replicas",
        ),
        ("scenario: {title: x, load: 0.9}\nrequest_generator_config: trace_replay\n", "needs synthetic requests"),
        ("scenario: {title: x, load: 0.9, events: [{at: 2, replica: 0, action: slow}]}\n", "at"),
        ("- 1\n", "the key scenario is missing"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_scenario_files(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Scenario.read(str(file))
    assert "\n" not in str(error.value)


# Figures of a simulation.


def test_figures_are_those_of_the_requests() -> None:
    config = Scenario.read("tight_kv").configure(11, 400, RoundRobinGlobalSchedulerConfig())
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
    assert figures["preemptions"] == result.recording.replicas["num_preemptions"].sum()


# The heuristics.


@pytest.mark.parametrize("name", HEURISTICS)
def test_heuristics_run_in_the_loop(name: str) -> None:
    config = Scenario.read("b88").configure(4, 100, BaseGlobalSchedulerConfig.from_type(name)())
    simulator = Simulator(config)
    placed = simulator.run().recording.requests["replica"]
    assert isinstance(simulator.router, KernelScheduler)
    assert np.bincount(placed, minlength=4).min() > 0
    # Compiled or called from Python, it is one router.
    stepped = Simulator(config)
    while (observation := stepped.next_decision()) is not None:
        stepped.place(stepped.router.schedule(observation))
    if name not in ("random", "power_of_two"):
        assert (stepped.result().recording.requests["replica"] == placed).all()


# Cells, and going on with them.


def cells(scenario: Scenario, count: int = 6) -> list[Cell]:
    return [
        Cell(scenario.name, "lor", seed, scenario.configure(seed, 60, LORGlobalSchedulerConfig()), scenario.objectives)
        for seed in range(4, 4 + count)
    ]


def test_finished_cells_are_kept(tmp_path: Path) -> None:
    scenario = Scenario.read(str(write_scenario(tmp_path / "small.yaml")))
    store, its = CellStore(tmp_path / "cells", 1), cells(scenario)
    counts: list[int] = []

    def stop(count: int) -> None:
        counts.append(count)
        if sum(counts) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(its, stop)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").iterdir()}
    assert len(kept) == 3
    counts.clear()
    found = store.run(its, counts.append)
    # Three at once from disk, the others one by one.
    assert counts == [3, 1, 1, 1]
    assert all(file.stat().st_mtime_ns == kept[file] for file in kept)
    # As text: there may be a nan, of long prompts.
    assert str(found) == str([cell.simulate() for cell in its])
    assert str(found) == str(CellStore(tmp_path / "cells", 2).run(its, counts.append))
    # Two processes find the same.
    assert str(found) == str(CellStore(tmp_path / "others", 2).run(its, counts.append))


def test_a_torn_file_is_simulated_again(tmp_path: Path) -> None:
    scenario = Scenario.read(str(write_scenario(tmp_path / "small.yaml")))
    store, its = CellStore(tmp_path, 1), cells(scenario, 1)
    (found,) = store.run(its, lambda count: None)
    for text in ("", "{}", "[1]", '{"figures": {}}'):
        store.path(its[0]).write_text(text)
        assert str(store.run(its, lambda count: None)) == str([found])


def test_a_cell_is_known_by_its_content(tmp_path: Path) -> None:
    scenario = Scenario.read(str(write_scenario(tmp_path / "small.yaml")))
    cell = cells(scenario)[0]
    ppo = PPOGlobalSchedulerConfig(checkpoint="a.safetensors")
    learned = dataclasses.replace(cell, config=scenario.configure(4, 60, ppo), policy="1")
    moved = PPOGlobalSchedulerConfig(checkpoint="elsewhere/b.safetensors")
    assert dataclasses.replace(learned, config=scenario.configure(4, 60, moved)).key == learned.key
    assert dataclasses.replace(cell, scenario="renamed").key == cell.key
    others = [
        cells(scenario)[1],
        dataclasses.replace(cell, objectives=Objectives(2.0, 0.05)),
        dataclasses.replace(cell, config=scenario.configure(4, 61, LORGlobalSchedulerConfig())),
        learned,
        dataclasses.replace(learned, policy="2"),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 6


def test_tuned_thresholds_are_no_worse_than_the_routers_own(tmp_path: Path) -> None:
    scenario = Scenario.read(str(write_scenario(tmp_path / "small.yaml", EQUAL, 0.95)))
    (tuned,) = tune_size_split([scenario], 200, CellStore(tmp_path / "cells", 1), lambda count: None)

    def cost(thresholds: tuple[float, ...]) -> float:
        router = SizeSplitGlobalSchedulerConfig(thresholds=thresholds)
        runs = [simulate(scenario.configure(seed, 200, router)).recording for seed in TUNING_SEEDS]
        return float(np.mean([figures_of(run, scenario.objectives)["mean_e2e"] for run in runs]))

    assert cost(tuned) <= cost(())


# Targets.


def made_up(scenario: str, ppo: dict[str, float], heuristics: dict[str, float] | None = None) -> ScenarioResults:
    """Every metric of every router is 10 in the mean, save for what is given of the learned router and of mean E2E."""
    level = np.array([0.8, 1.0, 1.2])
    values = {}
    for router in (*HEURISTICS, *map(ppo_name, (5, 10, 40))):
        values[router] = dict.fromkeys(METRICS, 10.0 * level)
        if router not in HEURISTICS:
            values[router] |= {metric: 10.0 * level * factor for metric, factor in ppo.items()}
    for router, factor in (heuristics or {}).items():
        values[router]["mean_e2e"] = 10.0 * level * factor
    return ScenarioResults(Scenario.read(scenario), (900.0,), values)


def judged(*scenarios: ScenarioResults) -> Results:
    return Results(
        scenarios, (5.0, 10.0, 40.0), 10.0, (1000, 1001, 1002), 3000, "python -m rl.evaluate", "default", "ab" * 32
    )


def states(results: Results) -> dict[str, str]:
    return {target.text: target.state for target in targets(results)}


def test_a_router_that_is_better_everywhere_meets_every_target() -> None:
    better = {metric: 1.2 if metric == "goodput" else 0.8 for metric in METRICS}
    found = states(judged(*(made_up(name, better) for name in ("a79", "a93", "b88", "tight_kv", "slow_third"))))
    assert len(found) == 8
    assert set(found.values()) == {MET}


def test_targets_that_are_missed() -> None:
    # 10 % better than every heuristic: enough at equal replicas, not on mixed hardware.
    found = targets(judged(made_up("a93", {"mean_e2e": 0.9, "long_p99_ttft": 1.6}), made_up("b88", {"mean_e2e": 0.9})))
    by_text = {target.text: target for target in found}
    assert by_text["beta 5: mean E2E 5 % below that of the best heuristic"].verdict == MET
    missed = by_text["beta 5: mean E2E 15 % below that of the best heuristic"]
    assert missed.verdict == "missed in 1 of 1"
    assert missed.failed[0].text == "-10.0 ± 0.0 % against round_robin"
    long = next(target for target in found if "3,000 tokens" in target.text)
    assert [(check.scenario, check.text) for check in long.failed] == [("a93", "1.60 times")]
    # Equal p99 TTFT and goodput are not better, and no worse.
    blind = next(target for target in found if "round_robin and random" in target.text)
    assert blind.state == OPEN
    assert blind.verdict == "open in 8 of 12"
    assert by_text["beta 40: p99 TTFT no worse than that of the best heuristic, within its interval"].state == MET


def test_targets_without_size_split() -> None:
    found = states(judged(made_up("a93", {"mean_e2e": 0.9}, {"size_split": 0.88})))
    assert found["beta 5: mean E2E nowhere above that of the best heuristic"] == MISSED
    assert found["beta 5: mean E2E nowhere above that of the best heuristic but size_split"] == MET
    # No other target changes, so none is told twice.
    assert "beta 40: p99 TTFT no worse than that of the best heuristic but size_split, within its interval" not in found


def test_targets_of_other_betas_are_left_out() -> None:
    results = dataclasses.replace(judged(made_up("a93", {})), betas=(7.0,))
    assert targets(results) == []
    its = results.scenarios[0]
    values = {**its.values, ppo_name(7): its.values["lor"]}
    results = dataclasses.replace(results, scenarios=[dataclasses.replace(its, values=values)])
    assert "None of the targets' betas" in markdown(results, "x.svg")
    assert chart_svg(results).count("<circle") == 2 + 1


# The command.


def run(tmp_path: Path, *flags: str) -> int:
    files = [
        str(write_scenario(tmp_path / "equal.yaml", EQUAL, 0.9, "  gain: 5\n")),
        str(write_scenario(tmp_path / "mixed.yaml", MIXED, 0.8)),
    ]
    common = ["--scenarios", ",".join(files), "--requests", "80", "--seeds", "2", "--workers", "1"]
    return main([*common, "--output", str(tmp_path / "out"), *flags])


def test_an_evaluation_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--markdown", str(tmp_path / "a.md"), "--json", str(tmp_path / "a.json"), "--details"]
    assert run(tmp_path, *files) == 0
    printed = capsys.readouterr().out
    assert "mean E2E: differences from the best heuristic" in printed
    assert "fewest_prompts" in printed
    document = json.loads((tmp_path / "a.json").read_text())
    rows = {(row["scenario"], row["scheduler"], row["metric"]): row for row in document["rows"]}
    routers = {router for _, router, _ in rows}
    assert routers == {*HEURISTICS, "ppo beta 5", "ppo beta 10", "ppo beta 40"}
    # On equal replicas these two are one router; the requests are the same.
    for metric in METRICS:
        if ("equal", "round_robin", metric) in rows:
            one, other = (rows["equal", name, metric]["values"] for name in ("round_robin", "weighted_round_robin"))
            assert one == other
    # A cell is what vidur.main simulates.
    scenario = Scenario.read(str(tmp_path / "mixed.yaml"))
    config = scenario.configure(1001, 80, PPOGlobalSchedulerConfig(beta=40.0))
    figures = figures_of(simulate(config).recording, scenario.objectives)
    assert rows["mixed", "ppo beta 40", "mean_e2e"]["values"][1] == figures["mean_e2e"]
    comparisons = rows["mixed", "ppo beta 40", "mean_e2e"]["comparisons"]
    assert [comparison["baseline"] for comparison in comparisons] == list(HEURISTICS)
    text = (tmp_path / "a.md").read_text()
    assert "![" in text and "a.svg" in text and str(tmp_path / "out") not in text
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert "Plotly.newPlot" in (tmp_path / "out" / "report.html").read_text()
    # Again, from the cells on disk and from nothing: the same bytes.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()}
    assert run(tmp_path, "--markdown", str(tmp_path / "b.md"), "--json", str(tmp_path / "b.json")) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()} == before
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    assert (tmp_path / "b.md").read_text() == text.replace("a.svg", "b.svg")


def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl.evaluate", "--scenarios", "a93", "--requests", "400", "--seeds", "2",
               "--betas", "5", "--workers", "1", "--output", str(tmp_path / "out")]  # fmt: skip
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent, stdout=subprocess.DEVNULL)
    folder, deadline = tmp_path / "out" / "cells", time.monotonic() + 240
    while len(list(folder.glob("*.json"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    assert len(before) >= 10
    assert all(set(json.loads(text)["figures"]) == set(METRICS) for text in before.values())
    assert main(command[3:]) == 0
    assert all(file.read_bytes() == before[file] for file in before)
    assert len(list(folder.glob("*.json"))) > len(before)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--scenarios", "a9,b88"],
            "unknown scenario (a name in data/scenarios, or a YAML file) 'a9': did you mean a93",
        ),
        (["--scenarios", "none.yaml"], "unknown scenario"),
        (["--scenarios", ","], "--scenarios names nothing"),
        (["--betas", "5,x"], "--betas: expected numbers of at least 0 with commas between them, as 5,10,40, not 'x'"),
        (["--betas", "-1"], "--betas"),
        (["--betas", "nan"], "not 'nan'"),
        (["--metrics", "mean_e3e"], "unknown metric 'mean_e3e': did you mean mean_e2e"),
        (["--checkpoint", "defualt"], "'defualt'"),
        (["--checkpoint", "no/such.safetensors"], "no/such.safetensors"),
        (["--seeds", "1"], "--seeds"),
        (["--first_seed", "2"], "--first_seed 2: size_split's thresholds are tuned on seeds 1, 2, 3"),
        (["--scenario", "a93"], "unknown argument --scenario: did you mean --scenarios"),
    ],
)
def test_bad_input(flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--output", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("rl.evaluate: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_policy_is_read_once(tmp_path: Path) -> None:
    # A checkpoint that training replaces during an evaluation does not mix with the one that was named.
    policy = tmp_path / "mine.safetensors"
    policy.write_bytes(policy_path(None).read_bytes())
    file = write_scenario(tmp_path / "small.yaml")
    flags = ["--scenarios", str(file), "--requests", "60", "--seeds", "2", "--workers", "1", "--betas", "5"]
    assert main([*flags, "--checkpoint", str(policy), "--output", str(tmp_path / "out")]) == 0
    (copy,) = (tmp_path / "out" / "policies").iterdir()
    assert copy.read_bytes() == policy.read_bytes()
