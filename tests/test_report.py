"""report.html."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import empty_recording, made_up_recording, result_of
from report_pages import page_and_charts

from vidur.metrics.report import write_report
from vidur.metrics.report_sections import TIME_BINS
from vidur.metrics.result import SimulationResult

MEBIBYTE = 2**20


def report(
    path: Path, result: SimulationResult, others: Mapping[str, SimulationResult] | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """The page before its scripts, and its charts."""
    write_report(path / "report.html", result, others)
    assert (path / "report.html").stat().st_size < 6 * MEBIBYTE
    return page_and_charts(path / "report.html")


def titles(page: str) -> list[str]:
    return re.findall(r"<figcaption><span><b>(.*?)</b>", page)


def test_report_holds_what_was_asked_for(tmp_path: Path) -> None:
    page, charts = report(tmp_path, result_of(made_up_recording(100, 2)))
    expected = ["TTFT", "TPOT", "E2E", "Scheduling delay", "ITL", "Load", "Replicas over time"]
    expected += ["Batch size", "Tokens in a batch", "Batch time", "Batch time by tokens"]
    expected += ["TTFT by prompt length", "TTFT by arrival", "TPOT by output length", "TPOT by arrival"]
    assert titles(page) == expected
    assert len(charts) == len(expected)
    assert all(trace["x"] for chart in charts for trace in chart["data"])
    assert "round_robin over sarathi" in page and "config.json" in page


def test_distributions_end_at_all_requests(tmp_path: Path) -> None:
    _, charts = report(tmp_path, result_of(made_up_recording(3000, 4, qps=30)))
    for chart in charts[:4]:
        (curve,) = chart["data"]
        assert curve["y"] == sorted(curve["y"]) and curve["y"][-1] == 100.0
        assert curve["x"] == sorted(curve["x"]) and len(curve["x"]) <= 1000


def test_subsamples_limits_the_points(tmp_path: Path) -> None:
    _, charts = report(tmp_path, result_of(made_up_recording(500, 2, qps=30), subsamples=20))
    assert len(charts[0]["data"][0]["x"]) == 20
    assert len(charts[4]["data"][0]["x"]) <= 21
    assert len(charts[6]["data"][0]["x"]) == 20


def test_each_replica_is_a_line_up_to_sixteen(tmp_path: Path) -> None:
    page, charts = report(tmp_path, result_of(made_up_recording(100, 16, qps=30)))
    lines = charts[titles(page).index("Replicas over time")]["data"]
    assert len(lines) == 4 * 16
    assert all(len(line["x"]) == len(line["y"]) == TIME_BINS for line in lines)


def test_many_replicas_are_a_band_and_heat_maps(tmp_path: Path) -> None:
    page, charts = report(tmp_path, result_of(made_up_recording(600, 300, qps=300)))
    at = titles(page).index("Replicas over time")
    assert [trace["name"] for trace in charts[at]["data"]] == ["most", "least to most", "mean of the replicas"] * 4
    for chart in charts[at + 1 : at + 5]:
        (heat,) = chart["data"]
        assert heat["type"] == "heatmap"
        assert len(heat["y"]) == len(heat["z"]) == 100 and len(heat["x"]) == len(heat["z"][0]) == 200


def test_groups_and_events_are_shown(tmp_path: Path) -> None:
    cluster = {
        "replica_groups": [{"name": "fast<b>", "device": "h100"}, {"name": "slow"}],
        "replica_events": [{"time": 3.0, "replica": 1, "action": "fail"}],
    }
    recording = made_up_recording(100, 2)
    recording.replicas["group"][1] = 1
    page, charts = report(tmp_path, result_of(recording, {"cluster_config": cluster}))
    assert [curve["name"] for curve in charts[0]["data"]] == ["all", "fast<b>", "slow"]
    assert "fast&lt;b&gt;" in page and "fast<b>" not in page
    over_time = charts[titles(page).index("Replicas over time")]
    assert [note["text"] for note in over_time["layout"]["annotations"]] == ["1: fail"]


@pytest.mark.parametrize(
    ("flags", "absent"),
    [
        ({"store_request_metrics": False}, {"TTFT", "TTFT by arrival"}),
        ({"store_batch_metrics": False}, {"Batch size", "Batch time"}),
        ({"store_utilization_metrics": False}, {"Replicas over time"}),
    ],
)
def test_sections_follow_the_flags(tmp_path: Path, flags: dict[str, Any], absent: set[str]) -> None:
    page, _ = report(tmp_path, result_of(made_up_recording(50, 2), **flags))
    assert not absent & set(titles(page))


def test_operations_are_shown_if_stored(tmp_path: Path) -> None:
    page, charts = report(tmp_path, result_of(made_up_recording(50, 2), store_operation_metrics=True))
    assert titles(page)[-1] == "Operations"
    assert sum(charts[-1]["data"][0]["x"]) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("num_replicas", [1, 20])
def test_empty_run(tmp_path: Path, num_replicas: int) -> None:
    page, _ = report(tmp_path, result_of(empty_recording(num_replicas)))
    assert "nothing was recorded" in page


def test_partial_run_says_so(tmp_path: Path) -> None:
    page, _ = report(tmp_path, result_of(made_up_recording(100, 2, time_limit=5.0)))
    assert "the run was stopped" in page


def test_slos_are_lines_with_the_share_that_meets_them(tmp_path: Path) -> None:
    recording = made_up_recording(200, 2, qps=30)
    ttft = recording.requests["prefill_completed_at"] - recording.requests["arrived_at"]
    slo = float(np.median(ttft))
    result = result_of(recording, {"slo_ttft": slo})
    page, charts = report(tmp_path, result)
    share = f"{100 * np.mean(ttft <= slo):.1f} %"
    (label,) = (note["text"] for note in charts[0]["layout"]["annotations"] if note["text"].startswith("SLO"))
    assert label.endswith(f": {share} meet it")
    assert charts[0]["layout"]["shapes"][-1]["x0"] == pytest.approx(slo if label.split()[2] == "s:" else slo * 1e3)
    assert not any(note["text"].startswith("SLO") for note in charts[1]["layout"]["annotations"])
    assert f"<span>TTFT SLO met</span><strong>{share}</strong>" in page and "TPOT SLO met" not in page
    goodput = result.summary["goodput"]
    assert goodput["ttft_attainment"] == goodput["fraction_of_finished"] == np.mean(ttft <= slo)


def test_percentiles_are_labelled_at_their_lines(tmp_path: Path) -> None:
    _, charts = report(tmp_path, result_of(made_up_recording(500, 2, qps=30)))
    for chart in charts[:4]:
        marks = zip(chart["layout"]["shapes"], chart["layout"]["annotations"], strict=True)
        assert [(note["text"].split()[0], line["y1"], line["x0"] == note["x"]) for line, note in marks] == [
            ("p50", 50, True), ("p90", 90, True), ("p99", 99, True),
        ]  # fmt: skip


def test_other_routers_are_beside_the_configured_one(tmp_path: Path) -> None:
    result = result_of(made_up_recording(300, 2, qps=30), {"slo_tpot": 0.03})
    others = {"lor": result_of(made_up_recording(300, 2, qps=15), {"slo_tpot": 0.03})}
    page, charts = report(tmp_path, result, others)
    assert [curve["name"] for curve in charts[1]["data"]] == ["round_robin", "lor"]
    assert charts[1]["data"][0]["line"]["color"] != charts[1]["data"][1]["line"]["color"]
    outstanding = charts[titles(page).index("Requests in the cluster")]["data"]
    for line, run in zip(outstanding, (result, others["lor"]), strict=True):
        at, count = line["x"][100], line["y"][100]
        requests = run.recording.requests
        assert count == pytest.approx(np.sum((requests["arrived_at"] <= at) & (requests["completed_at"] > at)), abs=1)
    rows = re.findall(r"<tr><td>(\w+)</td><td class=number>300</td>(.*?)</tr>", page)
    assert [row[0] for row in rows] == ["round_robin", "lor"]
    assert all(len(re.findall("<td", cells)) == 8 for _, cells in rows)
