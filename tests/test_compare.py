"""python -m vidur.compare from end to end: grids, common random numbers, results, resuming, failures, bad input."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scenarios import EQUAL, MIXED, write_scenario

from vidur.compare.__main__ import main
from vidur.compare.config import CompareConfig
from vidur.compare.figures import METRICS, Objectives, figures_of
from vidur.compare.schedulers import every_scheduler, parse_schedulers
from vidur.compare.sweep import points_of
from vidur.compare.sweep_file import SweepFile
from vidur.config import (
    BaseGlobalSchedulerConfig,
    CustomGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    SimulationConfig,
    SizeSplitGlobalSchedulerConfig,
)
from vidur.errors import InputError
from vidur.simulator import simulate

ROOT = Path(__file__).resolve().parent.parent
# Where a load is named the capacity is measured; a rate spares that.
RATE = ["--qps", "10"]


def run(tmp_path: Path, *flags: str) -> int:
    files = ",".join(
        str(write_scenario(tmp_path / f"{name}.yaml", groups)) for name, groups in (("equal", EQUAL), ("mixed", MIXED))
    )
    common = ["--scenario", files, "--requests", "60", "--seeds", "4", "--workers", "1"]
    return main([*common, "--output", str(tmp_path / "out"), *flags])


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def test_a_sweep_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--markdown", str(tmp_path / "a.md"), "--json", str(tmp_path / "a.json")]
    grid = ["--schedulers", "lor,ppo:beta=40,least_tokens", "--qps", "8,12", "--replicas", "2,4"]
    assert run(tmp_path, *grid, *files) == 0
    printed = capsys.readouterr().out
    assert "mean E2E, difference from round_robin in percent" in printed
    assert "mixed, 4 replicas, 12 requests/s" in printed
    rows = rows_of(tmp_path / "a.json")
    names = ["round_robin", "lor", "ppo:beta=40", "least_tokens"]
    keys = [(row["scenario"], row["qps"], row["replicas"], row["scheduler"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    grid_of_mean_e2e = {key[:4] for key in keys if key[4] == "mean_e2e"}
    assert grid_of_mean_e2e == {
        (scenario, qps, count, name)
        for scenario in ("equal", "mixed") for qps in (8.0, 12.0) for count in (2, 4) for name in names
    }  # fmt: skip
    for row in rows:
        assert row["interval"][0] <= row["mean"] <= row["interval"][1]
        assert row["baseline"] == "round_robin"
        assert row["verdict"] in ("win", "tie", "loss", "baseline")
        assert row["adjusted_p_value"] is None or row["adjusted_p_value"] >= row["p_value"]
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert len(frame) == 2 * 2 * 2 * 4 * 4
    assert set(METRICS) <= set(frame.columns)
    # A cell is what its command simulates; the rows are means of cells.
    cell = frame.iloc[-1]
    config = SimulationConfig.from_cli(shlex.split(cell["command"])[3:])
    figures = figures_of(simulate(config).recording, Objectives(1.0, 0.05), np.array([1.0, 1.0, 0.5, 0.5]))
    assert {metric: cell[metric] for metric in METRICS} == pytest.approx(figures, nan_ok=True)
    chosen = frame[(frame.scenario == "mixed") & (frame.qps == 12) & (frame.replicas == 4) & (frame.scheduler == "lor")]
    mean = next(row["mean"] for key, row in zip(keys, rows, strict=True) if key == ("mixed", 12, 4, "lor", "p90_ttft"))
    assert chosen["p90_ttft"].mean() == pytest.approx(mean)
    text = (tmp_path / "a.md").read_text()
    assert "| mixed, 4 replicas, 12 requests/s |" in text
    assert "python -m vidur.compare --scenario" in text
    # Again, from the cells on disk: the same bytes.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()}
    assert run(tmp_path, *grid, "--json", str(tmp_path / "b.json")) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()} == before
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


def test_every_scheduler_gets_the_same_requests(tmp_path: Path) -> None:
    assert run(tmp_path, *RATE, "--schedulers", "lor,random,weighted_round_robin") == 0
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    for _, cells in frame.groupby(["scenario", "seed"]):
        configs = [SimulationConfig.from_cli(shlex.split(command)[3:]) for command in cells["command"]]
        assert len({str(config.request_generator_config) for config in configs}) == 1
        tables = [simulate(config).requests for config in configs]
        for column in ("arrived_at", "request_num_prefill_tokens", "request_num_decode_tokens"):
            assert all((table[column] == tables[0][column]).all() for table in tables)
    # On equal replicas these two are one router.
    equal = frame[frame.scenario == "equal"].set_index(["scheduler", "seed"])["mean_e2e"]
    assert (equal["round_robin"] == equal["weighted_round_robin"]).all()
    (row,) = (
        row for row in rows_of(tmp_path / "out" / "results.json")
        if (row["scenario"], row["scheduler"], row["metric"]) == ("equal", "weighted_round_robin", "mean_e2e")
    )  # fmt: skip
    assert (row["difference"], row["difference_interval"], row["verdict"]) == (0.0, [0.0, 0.0], "tie")


def test_loads_are_parts_of_the_capacity(tmp_path: Path) -> None:
    assert run(tmp_path, "--load", "0.4,0.8", "--schedulers", "lor", "--seeds", "2") == 0
    rates = {(row["scenario"], row["load"]): row["qps"] for row in rows_of(tmp_path / "out" / "results.json")}
    assert rates["equal", 0.8] == pytest.approx(2 * rates["equal", 0.4])
    assert rates["equal", 0.4] > rates["mixed", 0.4]


# A sweep in a file.

SWEEP = """
title: Two clusters
schedulers: [lor, least_tokens]
baseline: lor
seeds: 4
requests: 60
qps: 9
scenarios:
  - equal.yaml
  - {scenario: equal.yaml, name: stale, qps: [4, 8], without: random, cluster_config: {gauge_refresh_interval: 5}}
  - name: inline
    scenario: {title: in the sweep itself, load: 0.5}
    replicas: [1, 2]
    cluster_config:
      replica_config: {model_name: meta-llama/Meta-Llama-3-8B, device: a100}
    request_generator_config:
      type: synthetic
      length_generator_config: {type: fixed, prefill_tokens: 100, decode_tokens: 10, max_tokens: 4096}
      interval_generator_config: {type: gamma, cv: 2}
"""


def write_sweep(tmp_path: Path, text: str = SWEEP) -> str:
    write_scenario(tmp_path / "equal.yaml", EQUAL)
    (tmp_path / "sweep.yaml").write_text(text.replace("equal.yaml", str(tmp_path / "equal.yaml")))
    return str(tmp_path / "sweep.yaml")


def test_a_sweep_in_a_file(tmp_path: Path) -> None:
    flags = [write_sweep(tmp_path), "--workers", "1", "--output", str(tmp_path / "out")]
    assert main(flags) == 0
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    points = frame.groupby(["scenario", "qps", "replicas"], sort=False).size()
    assert points.to_dict() == {
        ("equal", 9.0, 2): 8, ("stale", 4.0, 2): 8, ("stale", 8.0, 2): 8, ("inline", 9.0, 1): 8, ("inline", 9.0, 2): 8,
    }  # fmt: skip
    assert frame["command"].str.contains("gauge_refresh_interval 5.0").sum() == 16
    assert frame["command"].str.contains("gamma").sum() == 16
    # Flags go before the file; --scenario chooses among its own.
    assert main([*flags, "--scenario", "stale", "--qps", "6", "--seeds", "5", "--baseline", "random"]) == 0
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    command = json.loads((tmp_path / "out" / "results.json").read_text())["command"]
    assert command.endswith("sweep.yaml --scenario stale --baseline random --qps 6 --seeds 5")
    assert set(frame.scenario) == {"stale"} and set(frame.qps) == {6.0} and frame.seed.nunique() == 5
    # What is left out there, save where it is the baseline.
    assert set(frame.scheduler) == {"random", "lor", "least_tokens"}
    assert main([*flags, "--schedulers", "random,lor"]) == 0
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert set(frame[frame.scenario == "stale"].scheduler) == {"lor"}
    assert set(frame[frame.scenario == "equal"].scheduler) == {"random", "lor"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scenarios: 5", "the key scenarios is missing"),
        ("scenario: {title: x, load: 1}", "a scenario is given by --scenario"),
        (SWEEP + "sedes: 4\n", "'sedes': did you mean seeds"),
        (SWEEP.replace("name: stale", "nome: stale"), "'nome': did you mean name"),
        (SWEEP.replace("gauge_refresh_interval: 5", "gauge_refresh_intervals: 5"), "did you mean cluster_config.gauge"),
        (SWEEP.replace("qps: [4, 8]", "qps: [4, x]"), "scenarios[1]: qps: expected a list, each a number, not 'x'"),
        (
            SWEEP.replace("replicas: [1, 2]", "replicas: [1, 0.5]"),
            "replicas: expected a list, each an integer, not 0.5",
        ),
        (SWEEP.replace("name: inline", "title: inline"), "name is missing"),
        (SWEEP.replace("without: random", "without: {a: 1}"), "without: expected a list, each text"),
        (SWEEP.replace("qps: [4, 8]", "qps: 4, load: 0.5"), "load and qps both set the arrival rate"),
        (SWEEP.replace(", name: stale, qps: [4, 8]", ""), "occurs twice: give one of the two another name"),
        (SWEEP.replace("seeds: 4", "seeds: four"), "--seeds must be a number from 2 to 100000, or auto, not 'four'"),
        ("scenarios: []", "the sweep has no scenario"),
        ("scenarios: [a9]", "did you mean a93"),
        ("scenarios: [", "not YAML"),
    ],
)
def test_bad_sweep_files(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write_sweep(tmp_path, text), "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


# Schedulers by name.


def test_schedulers_by_name() -> None:
    mine = "docs/examples/fewest_prompts.py:FewestPrompts"
    found = parse_schedulers(f"lor, ppo:beta=40,checkpoint=default,size_split:thresholds=900+3000, {mine}")
    assert list(found) == [
        "lor", "ppo:beta=40,checkpoint=default", "size_split:thresholds=900+3000",
        mine,
    ]  # fmt: skip
    assert list(found.values()) == [
        BaseGlobalSchedulerConfig.from_type("lor")(),
        PPOGlobalSchedulerConfig(beta=40.0, checkpoint="default"),
        SizeSplitGlobalSchedulerConfig(thresholds=(900.0, 3000.0)),
        CustomGlobalSchedulerConfig(scheduler=mine),
    ]
    (custom,) = parse_schedulers("a.py:Mine:options={}").values()
    assert custom == CustomGlobalSchedulerConfig(scheduler="a.py:Mine", options="{}")
    assert list(parse_schedulers("all,lookahead")) == [*every_scheduler(), "lookahead"]
    assert {"ppo", "least_tokens", "session_hash", "backlog_time"} <= set(every_scheduler())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("least_token", "unknown scheduler 'least_token': did you mean least_tokens"),
        ("ppo:bta=4", "unknown setting of scheduler ppo: 'bta': did you mean beta"),
        ("ppo:beta=x", "--schedulers ppo:beta=x: beta: expected a number, not 'x'"),
        ("random:beta=1", "--schedulers random:beta=1: random has no settings"),
        ("ppo:mode=train", "mode train changes one"),
        ("size_split:thresholds=9+3", "must ascend"),
        (",", "--schedulers names nothing"),
    ],
)
def test_bad_schedulers(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_schedulers(text)
    assert message in str(error.value)


# Failures, resuming, bad input.


def test_a_cell_that_fails_does_not_sink_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    router = tmp_path / "router.py"
    source = (ROOT / "docs/examples/fewest_prompts.py").read_text()
    router.write_text(source + "\nraise ImportError('no such luck')\n")
    flags = [*RATE, "--schedulers", f"lor,{router}:FewestPrompts"]
    assert run(tmp_path, *flags) == 1
    printed = capsys.readouterr()
    failed = [
        line for line in printed.err.splitlines() if line.startswith("vidur.compare: failed: python -m vidur.main")
    ]
    assert len(failed) == 8
    assert all("no such luck" in line and str(router) in line for line in failed)
    assert "equal, 2 replicas, 10 requests/s: 4 simulations failed" in printed.out
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["scheduler"] for row in document["rows"]} == {"round_robin", "lor"}
    assert len(document["failures"]) == 8
    # Mended, only what failed is simulated.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()}
    router.write_text(source)
    assert run(tmp_path, *flags) == 0
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 8


def test_results_that_cannot_be_written_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scenario", "a93", "--output", "/proc/none"]) == 2
    assert "--output /proc/none: nothing can be written there" in capsys.readouterr().err
    (tmp_path / "out" / "results.parquet").mkdir(parents=True)
    assert run(tmp_path, *RATE, "--schedulers", "lor") == 1
    error = f"vidur.compare: error: {tmp_path}/out: results.parquet could not be written: Is a directory\n"
    assert capsys.readouterr().err.endswith(error)
    assert {"results.json", "summary.md", "report.html"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vidur.compare", "--scenario", "a93", "--qps", "20", "--requests", "400",
               "--seeds", "20", "--workers", "2", "--schedulers", "lor,least_tokens,random",
               "--output", str(tmp_path / "out")]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    folder, deadline = tmp_path / "out" / "cells", time.monotonic() + 240
    while len(list(folder.glob("*.json"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    assert 10 <= len(before) < 80
    assert all(set(json.loads(text)["figures"]) == set(METRICS) for text in before.values())
    assert main(command[3:]) == 0
    assert all(file.read_bytes() == before[file] for file in before)
    assert len(list(folder.glob("*.json"))) == 80
    # The workers of the killed sweep end with it; whoever inherits them may be slow to take note.
    deadline = time.monotonic() + 60
    while (left := [worker for worker in workers if _runs(worker)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _runs(process: str) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interrupted_sweep_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vidur.compare", "--scenario", "a93", "--qps", "20", "--seeds", "500",
               "--workers", "1", "--schedulers", "lor", "--output", str(tmp_path / "out")]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "out" / "cells").glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    # A slow machine shows progress before.
    *progress, last = printed.splitlines()
    assert last == "vidur.compare: interrupted; the same command continues from the finished simulations"
    assert all(re.match(r"[\d,]+ of [\d,]+ simulations", line) for line in progress)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to compare in: give --scenario, or a sweep file"),
        (["--scenario", "a9"], "unknown scenario (a name in data/scenarios, or a YAML file) 'a9': did you mean a93"),
        (["no_sweep.yaml"], "there is no sweep file no_sweep.yaml"),
        (["a93"], "a scenario is given by --scenario"),
        (["--scenario", "a93", "--schedulers", "lro"], "unknown scheduler 'lro': did you mean lor"),
        (["--scenario", "a93", "--baseline", "rund_robin"], "did you mean round_robin"),
        (["--scenario", "a93", "--metric", "mean_e3e"], "unknown metric 'mean_e3e': did you mean mean_e2e"),
        (["--scenario", "a93", "--metric", "hit_rate"], "--metric hit_rate: no replica of the sweep caches prefixes"),
        (["--scenario", "a93", "--load", "0.5,2.5"], "a93: a load of 2.5 is too high"),
        (["--scenario", "a93", "--qps", "1e4"], "a93: 10000 requests/s is too high"),
        (["--scenario", "a93", "--load", "x"], "--load: expected numbers above 0 with commas between them, not 'x'"),
        (["--scenario", "a93", "--load", "1", "--qps", "1"], "give one of them"),
        (["--scenario", "a93", "--replicas", "1.5"], "--replicas: expected whole numbers"),
        (["--scenario", "a93", "--json", "/proc/none/a.json"], "--json /proc/none: nothing can be written there"),
        (["--scenario", "a93", "--markdown", "/proc"], "--markdown /proc: there is a folder of that name"),
        (["--scenario", "b88", "--replicas", "3"], "do not grow to that number in proportion"),
        (["--scenario", "a93", "--seeds", "1"], "--seeds must be a number from 2 to 100000, or auto, not '1'"),
        (["--scenario", "a93", "--schedulers", "ppo:checkpoint=nonesuch"], "nonesuch"),
        (["--scenario", "a93", "--ray-address", "auto"], "--ray_address needs --executor ray"),
        (["--scenarios", "a93"], "unknown argument --scenarios: did you mean --scenario"),
    ],
)
def test_bad_input(flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--output", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    # Measuring capacities may take longer than until progress is told.
    (error,) = (line for line in printed.err.splitlines() if "capacities measured" not in line)
    assert error.startswith("vidur.compare: error: ")
    assert message in error
    assert printed.out == ""


# More seeds where they are needed, and the shipped suite.


def test_seeds_are_added_until_intervals_are_narrow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*RATE, "--schedulers", "weighted_round_robin,random", "--seeds", "auto", "--max_seeds", "7"]
    assert run(tmp_path, *flags) == 0
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    # Random choices differ by more than 2 % for longer than that, and the same seeds go to every scheduler.
    assert (frame.groupby(["scenario", "scheduler"]).seed.nunique() == 7).all()
    assert "equal, 2 replicas, 10 requests/s: after 7 seeds an interval is still" in capsys.readouterr().out
    # On equal replicas the two differ by nothing; five seeds are enough.
    assert run(tmp_path, *RATE, "--scenario", str(tmp_path / "equal.yaml"), "--schedulers", "weighted_round_robin",
               "--seeds", "auto") == 0  # fmt: skip
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert frame.seed.nunique() == 5
    assert "still" not in capsys.readouterr().out


def test_auto_ends_where_the_intervals_are_narrow_enough(tmp_path: Path) -> None:
    flags = ["--schedulers", "lor,least_tokens", "--seeds", "auto", "--requests", "400", "--qps", "13"]
    assert run(tmp_path, "--scenario", str(write_scenario(tmp_path / "equal.yaml")), *flags) == 0
    rows = [row for row in rows_of(tmp_path / "out" / "results.json") if row["metric"] == "mean_e2e"]
    others = [row for row in rows if row["scheduler"] != "round_robin"]
    assert all(5 < row["seeds"] < 30 for row in rows)
    assert all(row["difference_interval"][1] - row["difference_interval"][0] <= 2.0 for row in others)


def test_the_standing_suite_covers_what_it_should() -> None:
    file = SweepFile.read("suite")
    points = [point for entry in file.entries for point in points_of(entry, CompareConfig(**file.flags))]
    assert len({point.label for point in points}) == len(points)
    assert {point.num_replicas for point in points} >= {2, 4, 8, 16, 64}
    assert {point.config.cluster_config.gauge_refresh_interval for point in points} == {0.0, 0.1, 1.0, 5.0}
    assert {point.config.cluster_config.num_routers for point in points} == {1, 4}
    kinds = {point.config.request_generator_config.length_generator_config.get_type() for point in points}
    assert kinds == {"quantile", "mixture", "fixed"}
    arrivals = {point.config.request_generator_config.interval_generator_config.get_type() for point in points}
    assert arrivals == {"poisson", "gamma", "swing"}
    actions = {event.action for point in points for event in point.header.events}
    assert actions == {"slow", "fail", "return"}
    assert {0.25, 0.7, 0.85, 0.95} <= {point.header.load for point in points if point.name == "chat"}
