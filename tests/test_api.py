"""The Python API beyond a simulation: changed configurations, what a result offers, comparisons and capacities."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vidur
from vidur import SimulationConfig, SimulationResult, simulate
from vidur.compare import compare
from vidur.compare.figures import Objectives, figures_of
from vidur.errors import InputError

QPS = "poisson_request_interval_generator_config_qps"
CONFIG = SimulationConfig().replace(num_replicas=2, num_requests=40, qps=3)


@pytest.fixture(scope="module")
def result() -> SimulationResult:
    return simulate(CONFIG)


def test_importing_vidur_is_light() -> None:
    program = "import sys, vidur, vidur.compare; print({'numba', 'numpy', 'pandas', 'plotly'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_all_names_are_there() -> None:
    assert all(getattr(vidur, name) is not None for name in vidur.__all__)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"num_replicas": 3}, ["--cluster_config_num_replicas", "3"]),
        ({"qps": 5}, [f"--{QPS}", "5"]),
        ({QPS: 5.0}, [f"--{QPS}", "5"]),
        ({"global_scheduler_config": "ppo", "beta": 7}, ["--global_scheduler_config_type", "ppo",
                                                         "--ppo_global_scheduler_config_beta", "7"]),
        ({"interval_generator_config_type": "gamma", "cv": 2, "qps": 4},
         ["--interval_generator_config_type", "gamma", "--gamma_request_interval_generator_config_qps", "4",
          "--gamma_request_interval_generator_config_cv", "2"]),
        ({"block_size": 1, "replica_scheduler_config": "lightllm"},
         ["--replica_scheduler_config_type", "lightllm", "--lightllm_scheduler_config_block_size", "1"]),
        ({"device": "h100"}, ["--replica_config_device", "h100"]),
        ({"seed": 3, "store_plots": False}, ["--seed", "3", "--no-metrics_config_store_plots"]),
        ({"replica_groups": [{"num_replicas": 1}, {"num_replicas": 2, "device": "h100"}]},
         ["--cluster_config_replica_groups", "num_replicas=1", "num_replicas=2,device=h100"]),
    ],
)  # fmt: skip
def test_replacing_is_what_the_flags_are(changes: dict[str, Any], flags: list[str]) -> None:
    assert SimulationConfig().replace(**changes) == SimulationConfig.from_cli(flags)


def test_replacing_keeps_the_rest() -> None:
    changed = CONFIG.replace(global_scheduler_config="lor")
    assert changed.replace(global_scheduler_config="round_robin") == CONFIG
    assert CONFIG.replace() == CONFIG


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_replica": 2}, "did you mean --cluster_config_num_replicas"),
        ({"beta": 2}, "does not choose: lookahead_global_scheduler_config_beta or ppo_global_scheduler_config_beta"),
        ({"size": 2}, "sarathi_scheduler_config_block_size or sarathi_scheduler_config_chunk_size"),
        ({"num_replicas": "two"}, "num_replicas: expected an integer, not 'two'"),
        ({"num_replicas": 0}, "--cluster_config_num_replicas must be at least 1"),
        ({"global_scheduler_config": "lro"}, "did you mean lor"),
        ({"replica_groups": [{"num_replica": 1}]}, "did you mean num_replicas"),
    ],
)
def test_a_replacement_that_is_wrong_says_what_is_right(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        CONFIG.replace(**changes)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_result_shows_itself_in_a_few_words(result: SimulationResult) -> None:
    assert repr(result).startswith("SimulationResult(40 of 40 finished; ") and len(repr(result)) < 200
    page = result._repr_html_()
    assert len(page) < 3000 and page.count("<table>") == page.count("</table>") == 2
    assert "TTFT (" in page and "40 of 40 finished" in page


def test_a_result_is_saved_as_a_run_is(result: SimulationResult, tmp_path: Path) -> None:
    result.save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == result.summary
    assert {"config.json", "request_metrics.csv", "report.html"} <= {file.name for file in (tmp_path / "run").iterdir()}


def test_the_goodput_counts_requests_within_both_objectives(result: SimulationResult) -> None:
    requests = result.requests
    ttft, tpot = float(requests["ttft"].median()), float(requests["tpot"].quantile(0.8))
    figures = result.goodput(ttft=ttft, tpot=tpot)
    met = ((requests["ttft"] <= ttft) & (requests["tpot"] <= tpot)).sum()
    assert figures["fraction_of_finished"] == met / 40
    assert figures["requests_per_second"] == pytest.approx(met / result.summary["duration"])
    assert figures["ttft_attainment"] == 0.5
    assert result.goodput() == {} and "goodput" not in result.summary
    with_slos = SimulationResult(CONFIG.replace(slo_ttft=ttft), result.recording, result.hardware)
    assert with_slos.goodput() == with_slos.summary["goodput"] == result.goodput(ttft=ttft)


def test_a_plot_has_a_curve_for_each_latency(result: SimulationResult) -> None:
    figure = result.plot()
    assert [trace.name for trace in figure.data] == ["TTFT", "TPOT", "ITL", "E2E"]
    for trace in figure.data:
        assert list(trace.x) == sorted(trace.x) and list(trace.y) == sorted(trace.y) and trace.y[-1] == 100


def test_comparing_from_python_is_what_the_command_does(tmp_path: Path) -> None:
    results = compare(CONFIG, ["round_robin", "lor"], qps=[2, 3], seeds=2, requests=40, workers=1,
                      output=str(tmp_path / "out"))  # fmt: skip
    rows = results.rows()
    assert {(row["scheduler"], row["qps"]) for row in rows} == {
        (name, rate) for name in ("round_robin", "lor") for rate in (2.0, 3.0)
    }
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["rows"] == json.loads(json.dumps(rows)) and document["command"].startswith("vidur.compare.compare(")
    # A record is what a simulation of the same requests gives.
    point = results.points[0]
    router = CONFIG.replace(global_scheduler_config="lor").cluster_config.global_scheduler_config
    recording = simulate(point.scenario.configure(1001, 40, router)).recording
    figures = figures_of(recording, Objectives(1.0, 0.05), np.ones(2))
    assert point.records["lor"][1001].figures == pytest.approx(figures, nan_ok=True)


def test_a_comparison_at_the_rate_of_the_configuration(tmp_path: Path) -> None:
    results = compare(CONFIG, ["round_robin"], seeds=2, requests=40, workers=1, output=str(tmp_path))
    (point,) = results.points
    assert point.scenario.configure(5, 40).request_generator_config == CONFIG.replace(
        synthetic_request_generator_config_seed=5, fixed_request_length_generator_config_seed=5
    ).request_generator_config  # fmt: skip


def test_what_cannot_be_compared_or_measured(tmp_path: Path) -> None:
    replay = CONFIG.replace(request_generator_config="trace_replay")
    for call in (lambda: compare(replay, ["lor"], output=str(tmp_path)), lambda: vidur.capacity(replay)):
        with pytest.raises(InputError, match="the requests must be generated"):
            call()
    with pytest.raises(InputError, match="did you mean lor"):
        compare(CONFIG, ["lro"], output=str(tmp_path))


def test_the_capacity_of_a_cluster_grows_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDUR_CACHE_DIR", str(tmp_path))
    one, two = (vidur.capacity(CONFIG.replace(num_replicas=count)) for count in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.05)
