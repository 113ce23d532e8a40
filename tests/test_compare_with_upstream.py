"""scripts/compare_with_upstream.py: on recorded runs of upstream's, and on a checkout where one is given."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from compare_with_upstream import main

CASE = "sarathi_preempt"


@pytest.fixture
def recorded(shared: Path, tmp_path: Path) -> Path:
    """A copy of a recorded run, with preemptions."""
    folder = tmp_path / CASE
    shutil.copytree(shared / "golden" / CASE, folder)
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755)
    return folder


def change(folder: Path, request: int, **values: object) -> None:
    path = folder / "expected.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[request] |= {name: str(value) for name, value in values.items()}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def compared(*flags: str | Path, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "comparison.json"
    status = main([*map(str, flags), "--json", str(path)])
    return status, json.loads(path.read_text())


def test_a_recorded_run_is_equal(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = compared("--recorded", recorded, tmp_path=tmp_path)
    assert status == 0
    assert found["num_requests"] == 600
    assert found["first"] is None
    assert found["upstream_times"]["loop_cpu"] == json.loads((recorded / "case.json").read_text())["run_cpu_seconds"]
    assert all(seconds > 0 for seconds in found["times"].values())
    names = [difference["name"] for difference in found["differences"]]
    assert names == [
        "replica", "finished", "num_restarts", "scheduling_delay", "ttft", "e2e", "execution_time", "preempted_time"
    ]  # fmt: skip
    assert max(difference["max_difference"] for difference in found["differences"]) < 1e-9
    restarts = found["differences"][2]
    assert restarts["mean"] == restarts["upstream_mean"] > 0
    assert "600 requests: equal at a tolerance of 1e-09 s" in capsys.readouterr().out


def test_what_differs_is_counted_and_the_first_request_is_shown(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (recorded / "expected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(recorded, 40, completed_at=float(rows[40]["completed_at"]) + 0.25)
    change(recorded, 50, replica=1 - int(rows[50]["replica"]), completed_at="nan")
    status, found = compared("--recorded", recorded, tmp_path=tmp_path)
    assert status == 1
    differences = {difference["name"]: difference for difference in found["differences"]}
    assert [differences[name]["differing"] for name in ("replica", "finished", "num_restarts", "ttft", "e2e")] == [
        1, 1, 0, 0, 2
    ]  # fmt: skip
    assert [differences[name]["first"] for name in ("replica", "finished", "ttft", "e2e")] == [50, 50, None, 40]
    # The request that only one side finished is in no mean.
    assert differences["e2e"]["max_difference"] == pytest.approx(0.25)
    assert differences["e2e"]["mean_difference"] == pytest.approx(0.25 / 599)
    assert differences["e2e"]["p50_difference"] < 1e-9
    assert found["first"]["upstream"]["e2e"] - found["first"]["ours"]["e2e"] == pytest.approx(0.25)
    assert "request 40" in capsys.readouterr().out


def test_the_tolerance_is_of_times_and_not_of_placements(recorded: Path, tmp_path: Path) -> None:
    change(recorded, 7, execution_time=0)
    assert compared("--recorded", recorded, "--tolerance", "1000", tmp_path=tmp_path)[0] == 0
    change(recorded, 7, num_restarts=3)
    status, found = compared("--recorded", recorded, "--tolerance", "1000", tmp_path=tmp_path)
    assert (status, found["differences"][2]["first"]) == (1, 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --upstream CHECKOUT or --recorded FOLDER"),
        (["--upstream", "a", "--recorded", "b"], "give either --upstream CHECKOUT or --recorded FOLDER"),
        (["--recorded", "nowhere"], "--recorded nowhere: no recorded run (no case.json)"),
        (["--recorded", "b", "--seed", "1"], "--seed: the flags of a recorded run are in its case.json; give none"),
        (["--upstream", "nowhere"], "--upstream nowhere: no checkout of microsoft/vidur (no folder vidur/entities)"),
        (["--upstream", "nowhere", "--time_limt", "3"], "unknown flag --time_limt: did you mean --time_limit?"),
        (["--upstream", "a", "--config", "b"], "--config: upstream reads flags only"),
        (["--upstream", "a", "--tolerance", "-1"], "--tolerance must be at least 0, not -1.0"),
    ],
)
def test_bad_input_ends_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    assert capsys.readouterr().err == f"compare_with_upstream: error: {message}\n"


def test_a_checkout_needs_a_python_that_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vidur" / "entities").mkdir(parents=True)
    assert main(["--upstream", str(tmp_path)]) == 2
    assert "give --upstream_python" in capsys.readouterr().err
    # `false` fails without a word, as a broken Python does.
    assert main(["--upstream", str(tmp_path), "--upstream_python", "/bin/false"]) == 2
    assert "upstream failed with exit status 1: it printed nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkout(tmp_path: Path) -> None:
    checkout, python = os.environ.get("VIDUR_UPSTREAM"), os.environ.get("VIDUR_UPSTREAM_PYTHON")
    if not checkout or not python:
        pytest.skip("no checkout of microsoft/vidur: set VIDUR_UPSTREAM and VIDUR_UPSTREAM_PYTHON")
    flags = """
        --random_forrest_execution_time_predictor_config_num_estimators 10
        --random_forrest_execution_time_predictor_config_max_depth 16
        --random_forrest_execution_time_predictor_config_min_samples_split 2
        --random_forrest_execution_time_predictor_config_k_fold_cv_splits 2
        --random_forrest_execution_time_predictor_config_num_training_job_threads 1
        --sarathi_scheduler_config_num_blocks 700 --cluster_config_num_replicas 2
        --global_scheduler_config_type lor --synthetic_request_generator_config_num_requests 200
        --poisson_request_interval_generator_config_qps 6 --length_generator_config_type zipf
    """
    upstream = ("--upstream", checkout, "--upstream_python", python, "--record", tmp_path / "kept")
    status, found = compared(*upstream, *flags.split(), tmp_path=tmp_path)
    assert (status, found["num_requests"]) == (0, 200)
    assert found["upstream_times"]["cpu"] > found["upstream_times"]["loop_cpu"] > found["times"]["loop_cpu"] > 0
    assert compared("--recorded", tmp_path / "kept", tmp_path=tmp_path)[0] == 0
    assert main([*map(str, upstream), *flags.split()]) == 2
