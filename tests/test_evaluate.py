"""python -m rl.evaluate: heuristics, targets, and the command from end to end."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scenarios import EQUAL, MIXED, write_scenario

from rl.evaluate.__main__ import main
from rl.evaluate.chart import chart_svg
from rl.evaluate.markdown import markdown
from rl.evaluate.results import HEURISTICS, EvaluationResults, ScenarioResults, ppo_name
from rl.evaluate.targets import MET, MISSED, OPEN, targets
from rl.router.checkpoint import policy_path
from vidur.compare.executor import ProcessExecutor
from vidur.compare.figures import METRICS, figures_of
from vidur.compare.scenario import Scenario
from vidur.compare.store import CellStore
from vidur.compare.tuning import TUNING_SEEDS, tune_size_split
from vidur.config import BaseGlobalSchedulerConfig, PPOGlobalSchedulerConfig, SizeSplitGlobalSchedulerConfig
from vidur.scheduler.routers import KernelScheduler
from vidur.simulator import Simulator, simulate

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


def test_tuned_thresholds_are_no_worse_than_the_routers_own(tmp_path: Path) -> None:
    scenario = Scenario.read(str(write_scenario(tmp_path / "small.yaml", EQUAL, 0.95)))
    with ProcessExecutor(1) as executor:
        (tuned,) = tune_size_split([scenario], 200, CellStore(tmp_path / "cells", executor), lambda count: None)

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


def judged(*scenarios: ScenarioResults) -> EvaluationResults:
    return EvaluationResults(
        scenarios, (5.0, 10.0, 40.0), 10.0, (1000, 1001, 1002), 3000, "python -m rl.evaluate", "default", "ab" * 32
    )


def states(results: EvaluationResults) -> dict[str, str]:
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
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"<h2>Targets: \d+ of \d+ met</h2>", page) and "<svg" in page
    assert "SHA-256 " + document["checkpoint_sha256"][:16] + ": ppo beta 5, ppo beta 10, ppo beta 40" in page
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
        (["--scenarios", "none.yaml"], "scenario none.yaml: No such file or directory"),
        (["--scenarios", "a9.yaml"], "scenario a9.yaml: No such file or directory: did you mean a93"),
        (["--scenarios", ","], "--scenarios names nothing"),
        (["--betas", "5,x"], "--betas: expected numbers of at least 0 with commas between them, not 'x'"),
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
