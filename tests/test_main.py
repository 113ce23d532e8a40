"""python -m vidur.main beyond test_command_line.py: every way to configure a run, and every way to get it wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import simple_tables
from test_command_line import SMALL, finish, only_run, start

from vidur.config import SimulationConfig
from vidur.main import main
from vidur.simulator import simulate

REPLAY = ["--request_generator_config_type", "trace_replay", "--trace_request_generator_config_trace_file"]
ROUTER = "--global_scheduler_config_type"
ROUTERS = """
from vidur.scheduler.routers import GlobalScheduler
class Second(GlobalScheduler):
    def __init__(self, options, context): self.options = options
    def schedule(self, observation): return self.options.get("replica", 1)
class Plain: pass
"""

GROUPS = """
cluster_config:
  global_scheduler_config: {type: lor}
  replica_groups:
    - {name: fast, num_replicas: 1, device: h100}
    - {name: slow, num_replicas: 2, device: a100, batch_size_cap: 16}
  replica_events:
    - {time: 0.5, replica: 2, action: fail}
    - {time: 1, replica: 0, action: slow, factor: 3}
request_generator_config:
  type: synthetic
  num_requests: 30
"""
GROUP_FLAGS = [
    ROUTER, "lor", *SMALL[:1], "30",
    "--cluster_config_replica_groups", "name=fast,num_replicas=1,device=h100",
    "name=slow,num_replicas=2,device=a100,batch_size_cap=16",
    "--cluster_config_replica_events", "time=0.5,replica=2,action=fail", "time=1,replica=0,action=slow,factor=3",
]  # fmt: skip


def files(folder: Path) -> None:
    """The files that the command lines below name."""
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    (folder / "header.csv").write_text(header)
    (folder / "word.csv").write_text(header + "0,5,5\n1,five,5\n")
    (folder / "later.csv").write_text(header + "0,5,5\nnan,5,5\n")
    (folder / "long.csv").write_text(header + "0,3000,900\n")
    (folder / "routers.py").write_text(ROUTERS)
    (folder / "broken.py").write_text("def (:\n")
    (folder / "typo.yaml").write_text("cluster_config: {num_replica: 2}\n")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "garbage.npz").write_text("not an archive")
    (folder / "deep.json").write_text("[" * 100_000)
    simple_tables(max_tokens=1000, max_batch=200, max_context=200).save(folder / "small.npz")


TABLES = ["--execution_time_predictor_config_type", "tables", "--tables_execution_time_predictor_config_file"]
BAD = [
    (["--num_replicas"], "num_replicas"),
    (["--seed"], "seed"),
    (["--seed", "1.5"], "--seed"),
    (["--seed", "-1"], "--seed"),
    (["--cluster_config_num_replicas", "0"], "--cluster_config_num_replicas"),
    (["--replica_scheduler_config_type", "sarathy"], "did you mean sarathi"),
    (["--execution_time_predictor_config_type", "rooflin"], "did you mean roofline"),
    (["--replica_config_model_name", "meta-llama/Meta-Llama-3-8"], "meta-llama/Meta-Llama-3-8B"),
    (["--replica_config_device", "h10"], "h100"),
    (["--replica_config_num_pipeline_stages", "5"], "--replica_config_num_pipeline_stages"),
    (["--cluster_config_gauge_refresh_interval", "-1"], "--cluster_config_gauge_refresh_interval"),
    (["--cluster_config_gauge_refresh_interval", "inf"], "--cluster_config_gauge_refresh_interval"),
    (["--cluster_config_num_replicas", "3", "--cluster_config_replica_groups", "num_replicas=2"], "contradicts"),
    (["--cluster_config_replica_groups", "num_replica=2"], "did you mean num_replicas"),
    (["--cluster_config_replica_groups", "num_replicas"], "key=value"),
    (["--cluster_config_replica_events", "time=1,replica=0,action=explode"], "explode"),
    (["--cluster_config_replica_events", "time=nan,replica=0,action=fail"], "nan"),
    (["--sarathi_scheduler_config_num_blocks", "0"], "num_blocks"),
    (["--config", "nowhere.yaml"], "nowhere.yaml"),
    (["--config", "typo.yaml"], "num_replicas"),
    (["--config", "list.yaml"], "list.yaml"),
    ([*REPLAY, "header.csv"], "header.csv"),
    ([*REPLAY, "word.csv"], "row 3"),
    ([*REPLAY, "later.csv"], "later.csv"),
    (TABLES[:2], "--tables_execution_time_predictor_config_file"),
    ([*TABLES, "nowhere.npz"], "nowhere.npz"),
    (["--replica_config_model_name", "./deep.json"], "deep.json"),
    (
        [
            "--length_generator_config_type",
            "quantile",
            "--quantile_request_length_generator_config_distribution",
            "deep.json",
        ],
        "deep.json",
    ),
    ([ROUTER, "routers.py:Second", "--custom_global_scheduler_config_options", "[" * 100_000], "not JSON"),
    ([*TABLES, "garbage.npz"], "garbage.npz"),
    ([*TABLES, "small.npz", *REPLAY, "long.csv"], "prediction_max_tokens_per_request"),
    ([ROUTER, "routers.py:Third"], "Second"),
    ([ROUTER, "routers.py:Plain"], "no subclass"),
    ([ROUTER, "broken.py:Any"], "broken.py"),
    ([ROUTER, "nowhere.py:Any"], "nowhere.py"),
    ([ROUTER, "no.such.module:Any"], "no.such.module"),
    ([ROUTER, "routers.py:Second"], "replica 1"),
    ([ROUTER, "routers.py:Second", "--custom_global_scheduler_config_options", '{"replica": -1}'], "replica -1"),
    ([ROUTER, "routers.py:Second", "--custom_global_scheduler_config_options", "{replica"], "not JSON"),
    ([ROUTER, "size_split", "--size_split_global_scheduler_config_thresholds", "500", "100"], "thresholds"),
]


@pytest.mark.parametrize(("flags", "words"), BAD, ids=[" ".join(flags)[:200] for flags, _ in BAD])
def test_bad_input_gets_one_line_and_status_2(
    flags: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("Compiling")]
    assert out == "" and len(lines) == 1 and words in lines[0], err
    assert not (tmp_path / "simulator_output").exists()


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/none"])
def test_an_output_folder_that_cannot_be_written_is_refused_before_the_run(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    status, out, err = finish(start(tmp_path, *SMALL, "--metrics_config_output_dir", folder))
    lines = [line for line in err.splitlines() if not line.startswith("Compiling")]
    assert (status, out, len(lines)) == (2, "", 1), err
    assert f"--metrics_config_output_dir {folder}: nothing can be written there" in lines[0]


def test_a_disk_that_is_full_at_the_end_costs_the_files_that_do_not_fit(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the figures are small, report.html is not."""
    command = [sys.executable, "-m", "vidur.main", *SMALL, "--no-metrics_config_enable_chrome_trace"]
    limited = ["bash", "-c", 'ulimit -f 20 && exec "$@"', "bash", *command]  # KiB
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(limited, cwd=tmp_path, env=environment, capture_output=True, text=True)
    folder = only_run(tmp_path)
    error = f"vidur: error: {folder.relative_to(tmp_path)}: report.html could not be written: File too large"
    # Where nothing was compiled before, the compiled kernels do not fit either.
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, error) and "Traceback" not in done.stderr
    assert {path.name for path in folder.iterdir()} == {"config.json", "summary.json", "request_metrics.csv"}
    assert "Throughput" in done.stdout and "Results:" not in done.stdout


def test_an_error_deep_in_a_run_is_one_line_of_a_real_process_too(tmp_path: Path) -> None:
    files(tmp_path)
    for flags in ([*TABLES, "small.npz", *REPLAY, "long.csv"], [ROUTER, "routers.py:Second"]):
        status, out, err = finish(start(tmp_path, *flags))
        lines = [line for line in err.splitlines() if not line.startswith("Compiling")]
        assert (status, out, len(lines)) == (2, "", 1), err


def test_groups_and_events_by_flags_and_by_yaml_are_one(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(GROUPS)
    by_file = SimulationConfig.from_cli(["--config", str(tmp_path / "cluster.yaml")])
    assert by_file == SimulationConfig.from_cli(GROUP_FLAGS)
    status, out, _ = finish(start(tmp_path, "--config", "cluster.yaml"))
    assert status == 0
    assert "fast" in out and "slow" in out
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["requests"]["finished"] == 30
    rows = (only_run(tmp_path) / "request_metrics.csv").read_text().splitlines()
    assert len(rows) == 31


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(GROUPS)
    config = SimulationConfig.from_cli(["--config", str(tmp_path / "cluster.yaml"), ROUTER, "random", "--seed", "9"])
    assert config.cluster_config.global_scheduler_config.get_type() == "random"
    assert config.seed == 9 and len(config.cluster_config.replica_groups) == 2


def test_a_router_of_a_module_is_found_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routers_of_mine.py").write_text(ROUTERS)
    monkeypatch.syspath_prepend(tmp_path)
    flags = [*SMALL, "--cluster_config_num_replicas", "2", ROUTER, "routers_of_mine:Second"]
    placed = simulate(SimulationConfig.from_cli(flags)).recording.requests["replica"]
    assert set(placed) == {1}


def test_a_request_that_fits_the_larger_replica_only_is_refused_by_the_smaller(tmp_path: Path) -> None:
    files(tmp_path)
    groups = ["--cluster_config_replica_groups", "num_replicas=1,num_blocks=100", "num_replicas=1,num_blocks=900"]
    flags = [*groups, *REPLAY, str(tmp_path / "long.csv")]
    statuses = {
        router: list(simulate(SimulationConfig.from_cli([*flags, ROUTER, router])).recording.requests["status"])
        for router in ("round_robin", "lookahead")
    }
    assert statuses == {"round_robin": [2], "lookahead": [1]}


def test_help_groups_flags_by_what_they_configure(tmp_path: Path) -> None:
    status, out, err = finish(start(tmp_path, "--help"))
    assert status == 0 and err == ""
    titles = re.findall(r"^([a-z][a-z0-9_ :-]*):$", out, re.MULTILINE)
    for title in ("simulation", "cluster", "global scheduler: lookahead", "replica scheduler: vllm_v1"):
        assert title in titles
    under = out.split("\nglobal scheduler: lookahead:\n")[1].split("\n\n")[0:2]
    assert "--lookahead_global_scheduler_config_beta" in "\n".join(under)


def test_the_report_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    assert finish(start(tmp_path, *SMALL))[0] == 0
    report = (only_run(tmp_path) / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?\s*(https?:)?//", report)
    assert report.count("<html") == 1 and report.rstrip().endswith("</html>")


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    flags = ["--cluster_config_num_replicas", "3", ROUTER, "random", "--no-metrics_config_store_plots"]
    text = []
    for seed in ("1", "2", "1"):
        folder = tmp_path / str(len(text))
        folder.mkdir()
        assert finish(start(folder, *SMALL, *flags, "--seed", seed))[0] == 0
        text.append((only_run(folder) / "request_metrics.csv").read_bytes())
    assert text[0] == text[2] != text[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_compiled_loop(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that is compiled into the loop: the signal is seen between two slices of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidur.main.Progress.update", lambda *_: os.kill(os.getpid(), number))
    flags = [
        "--length_generator_config_type",
        "quantile",
        "--no-metrics_config_store_plots",
        "--cluster_config_num_replicas",
    ]
    assert main([*flags, "4", *SMALL[:1], "40000"]) == 128 + number
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["partial"] is True and 0 < summary["requests"]["finished"] < 40000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_has_its_status_too(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidur.simulator.generate_requests", lambda *_: os.kill(os.getpid(), number))
    assert main(SMALL) == 128 + number
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "simulator_output").exists()
