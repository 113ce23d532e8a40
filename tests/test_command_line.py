"""The command line as a user meets it: real processes, real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidur.config import SimulationConfig
from vidur.execution_time_predictor.iteration import iteration_ms
from vidur.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--synthetic_request_generator_config_num_requests", "20"]


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vidur.main", *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """What a process that runs has taken of the processor so far."""
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def only_run(folder: Path) -> Path:
    (run,) = (folder / "simulator_output").iterdir()
    return run


def test_a_run_prints_its_summary_and_writes_its_files(tmp_path: Path) -> None:
    status, out, _ = finish(start(tmp_path, *SMALL))
    assert status == 0
    for word in ("TTFT", "TPOT", "E2E", "Throughput", "Preemptions", "20 of 20 finished"):
        assert word in out
    assert {file.name for file in only_run(tmp_path).iterdir()} == {
        "config.json", "summary.json", "request_metrics.csv", "report.html",
    }  # fmt: skip


def test_config_json_of_a_run_gives_the_same_bytes_again(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    assert finish(start(tmp_path / "one", *SMALL, "--seed", "7", "--metrics_config_enable_chrome_trace"))[0] == 0
    first = only_run(tmp_path / "one")
    assert finish(start(tmp_path / "two", "--config", str(first / "config.json")))[0] == 0
    second = only_run(tmp_path / "two")
    for name in ("request_metrics.csv", "chrome_trace.json", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def bad(folder: Path) -> dict[str, list[str]]:
    """Bad command lines by what their one line must say."""
    (folder / "empty.csv").write_text("")
    (folder / "row.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,5\n1,-3,5\n")
    (folder / "bad.yaml").write_text("cluster_config: {num_replicas: [\n")
    replay = ["--request_generator_config_type", "trace_replay", "--trace_request_generator_config_trace_file"]
    return {
        "did you mean --cluster_config_num_replicas": ["--cluster_config_num_replica", "2"],
        "did you mean lor": ["--global_scheduler_config_type", "lorr"],
        "--replica_config_tensor_parallel_size 3": ["--replica_config_tensor_parallel_size", "3"],
        "no KV-cache": ["--replica_config_model_name", "meta-llama/Llama-2-70b-hf"],
        "qps": ["--poisson_request_interval_generator_config_qps", "-1"],
        "nan": ["--poisson_request_interval_generator_config_qps", "nan"],
        "nowhere.csv": [*replay, "nowhere.csv"],
        "empty.csv": [*replay, "empty.csv"],
        "row.csv": [*replay, "row.csv"],
        "bad.yaml": ["--config", "bad.yaml"],
        "there is no replica 4": ["--cluster_config_replica_events", "time=1,replica=4,action=fail"],
    }


def test_bad_input_gets_one_line_and_status_2(tmp_path: Path) -> None:
    for words, flags in bad(tmp_path).items():
        status, out, err = finish(start(tmp_path, *flags))
        assert status == 2, (flags, err)
        assert out == "" and err.count("\n") == 1 and words in err, (flags, err)


def test_a_request_too_long_to_hold_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    trace = tmp_path / "long.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,10\n1,3000,100\n2,100,10\n")
    flags = ["--request_generator_config_type", "trace_replay", "--sarathi_scheduler_config_num_blocks", "100"]
    status, out, _ = finish(start(tmp_path, *flags, "--trace_request_generator_config_trace_file", str(trace)))
    assert status == 0 and "1 refused" in out
    figures = json.loads((only_run(tmp_path) / "summary.json").read_text())["requests"]
    assert (figures["finished"], figures["refused"]) == (2, 1)


LONG = [
    "--global_scheduler_config_type", "lookahead", "--cluster_config_num_replicas", "8",
    "--length_generator_config_type", "quantile", "--poisson_request_interval_generator_config_qps", "40",
    "--no-metrics_config_store_plots",
]  # fmt: skip


@pytest.fixture(scope="module")
def seconds_of_a_start(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What a short run takes of the processor, once all that a long one needs is compiled."""
    taken = []
    for _ in range(2):
        before = os.times()
        assert finish(start(tmp_path_factory.mktemp("warm"), *LONG, *SMALL))[0] == 0
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return taken[1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_what_has_finished(
    tmp_path: Path, number: signal.Signals, status: int, seconds_of_a_start: float
) -> None:
    process = start(tmp_path, *LONG, "--synthetic_request_generator_config_num_requests", "20000")
    while process.poll() is None and cpu_seconds(process) < seconds_of_a_start + 1.0:
        time.sleep(0.05)
    process.send_signal(number)
    done, _, err = finish(process)
    assert done == status, err
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["partial"] is True
    assert 0 < summary["requests"]["finished"] < 20000


def test_the_engine_takes_the_predictors_time_for_a_batch() -> None:
    flags = """--replica_config_model_name meta-llama/Meta-Llama-3-8B --replica_config_tensor_parallel_size 2
        --fixed_request_length_generator_config_decode_tokens 1
        --fixed_request_length_generator_config_prefill_tokens 300
        --synthetic_request_generator_config_num_requests 1"""
    simulator = Simulator(SimulationConfig.from_cli(flags.split()))
    seconds = simulator.run().recording.requests["execution_time"][0]
    replica = simulator.config.cluster_config.groups[0].replica_config
    expected = iteration_ms(simulator.hardware_plans[0].tables, replica, prefills=[(0, 300)])
    assert seconds * 1e3 == pytest.approx(expected, rel=1e-12)
