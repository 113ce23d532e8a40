"""What a run with prefix caches shows: tables, summary, screen and report."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cached_workloads import simulate_sessions
from recordings import made_up_recording, result_of
from report_pages import in_browser, page_and_charts

from vidur.engine.recording import Recording
from vidur.metrics.cache_charts import cache_charts
from vidur.metrics.columns import request_columns
from vidur.metrics.console import print_comparison, print_summary
from vidur.metrics.prefix_cache import seconds_saved, tokens_over_time
from vidur.metrics.report import write_report
from vidur.metrics.result import SimulationResult
from vidur.metrics.timeline import time_edges

CACHED = ("num_cached_tokens", "num_believed_tokens")


def cached_recording(num_requests: int = 60, num_replicas: int = 2) -> Recording:
    """Return a recording in which half of every prompt was cached, and replica i evicted i blocks of 3 seconds."""
    recording = made_up_recording(num_requests, num_replicas, qps=30)
    requests, number = recording.requests, np.arange(num_replicas)
    requests["num_cached_tokens"] = requests["num_prefill_tokens"] // 2
    requests["num_believed_tokens"] = requests["num_cached_tokens"] + 10
    query, hit = (
        np.bincount(requests["replica"], requests[name], num_replicas).astype(np.int64)
        for name in ("num_prefill_tokens", "num_cached_tokens")
    )
    recording.replicas |= {
        "query_tokens": query,
        "hit_tokens": hit,
        "evicted_blocks": number,
        "evicted_age": 3.0 * number,
    }
    return recording


def on_screen(result: SimulationResult) -> str:
    text = io.StringIO()
    print_summary(result, text)
    assert max(map(len, text.getvalue().splitlines())) <= 100
    return text.getvalue()


def charts_of(result: SimulationResult) -> dict[str, Any]:
    return {chart.title: chart for chart in cache_charts(result)}


def test_figures_of_replicas_add_up() -> None:
    result = simulate_sessions()
    figures, replicas = result.summary["prefix_cache"], result.summary["replicas"]
    requests = result.recording.requests
    assert 0.2 < figures["hit_rate"] < 0.7 and figures["evicted_blocks"] > 0 and figures["mean_eviction_age"] > 0
    assert figures["query_tokens"] == requests["num_prefill_tokens"].sum()
    assert figures["hit_tokens"] == requests["num_cached_tokens"].sum()
    assert figures["hit_rate"] == figures["hit_tokens"] / figures["query_tokens"]
    for number, replica in enumerate(replicas):
        own = requests["replica"] == number
        assert (
            replica["hit_rate"] == requests["num_cached_tokens"][own].sum() / requests["num_prefill_tokens"][own].sum()
        )
    for name in ("query_tokens", "hit_tokens", "evicted_blocks"):
        assert figures[name] == sum(replica[name] for replica in replicas)
    ages = sum(replica["mean_eviction_age"] * replica["evicted_blocks"] for replica in replicas)
    assert figures["mean_eviction_age"] == pytest.approx(ages / figures["evicted_blocks"])
    json.dumps(result.summary, allow_nan=False)


def test_tables_have_columns_of_caches() -> None:
    result = simulate_sessions()
    for name in CACHED:
        assert (result.requests[name] == result.recording.requests[name]).all()
    assert list(result.requests.columns[-3:]) == ["status", *CACHED]
    assert (result.replicas["hit_rate"] == result.replicas["hit_tokens"] / result.replicas["query_tokens"]).all()


def test_saved_seconds_are_the_difference_of_two_prefills() -> None:
    recording = simulate_sessions().recording
    requests, replicas = recording.requests, recording.replicas
    prompt, cached = requests["num_prefill_tokens"].astype(float), requests["num_cached_tokens"].astype(float)
    token, pair = (replicas[f"prefill_{name}_seconds"][requests["replica"]] for name in ("token", "pair"))
    rest = prompt - cached
    by_hand = prompt * (token + prompt / 2 * pair) - rest * (token + (cached + rest / 2) * pair)
    saved = seconds_saved(recording)
    assert saved == pytest.approx(by_hand) and (saved[cached > 0] > 0).all() and (token > 0).all() and (pair > 0).all()


def test_tokens_over_time_are_those_of_the_requests() -> None:
    recording = simulate_sessions().recording
    requests, edges = recording.requests, time_edges(recording, 7)
    prompts, cached = tokens_over_time(recording, edges)
    assert prompts.shape == cached.shape == (2, 7)
    for replica in range(2):
        for place in range(7):
            begun = requests["scheduled_at"]
            within = (requests["replica"] == replica) & (begun >= edges[place]) & (begun < edges[place + 1])
            assert prompts[replica, place] == requests["num_prefill_tokens"][within].sum()
            assert cached[replica, place] == requests["num_cached_tokens"][within].sum()


def test_without_caches_nothing_is_shown(tmp_path: Path) -> None:
    result = result_of(made_up_recording(50, 2))
    assert "prefix_cache" not in result.summary and "hit_rate" not in result.summary["replicas"][0]
    assert not {*CACHED} & {*request_columns(result.recording)}
    assert "hit_rate" not in result.replicas.columns
    assert "Hit rate" not in on_screen(result) and "Prefix" not in on_screen(result)
    write_report(tmp_path / "report.html", result)
    page, _ = page_and_charts(tmp_path / "report.html")
    assert "Hit rate" not in page and "Prefix" not in page


@pytest.mark.parametrize("num_replicas", [2, 20])
def test_the_screen_shows_hit_rates(num_replicas: int) -> None:
    result = result_of(cached_recording(100, num_replicas))
    figures, text = result.summary["prefix_cache"], on_screen(result)
    rate = f"{100 * figures['hit_rate']:.1f} %"
    count = num_replicas * (num_replicas - 1) // 2
    evicted = "1 block" if count == 1 else f"{count} blocks"
    assert re.sub(r"\s+", " ", text).count(
        f"Prefix cache {rate} of {figures['query_tokens']:,} prompt tokens were cached; {evicted} "
        "evicted, 3.00 s after their last use in the mean"
    )
    if num_replicas > 16:
        assert re.search(rf"^all .* {rate}$", text, re.MULTILINE)
    else:
        for replica in result.summary["replicas"]:
            assert re.search(rf"^{replica['replica']} .* {100 * replica['hit_rate']:.1f} %", text, re.MULTILINE)


def test_routers_are_compared_by_hit_rate() -> None:
    result, text = simulate_sessions(), io.StringIO()
    print_comparison({"own": result, "none": result_of(made_up_recording(50, 2))}, text)
    rows = text.getvalue().splitlines()
    assert any(re.search(rf"^own .* {100 * result.summary['prefix_cache']['hit_rate']:.1f} %$", row) for row in rows)
    assert any(re.search(r"^none .* -$", row) for row in rows)


def test_charts_hold_rates_tokens_beliefs_and_evictions() -> None:
    result = simulate_sessions()
    charts, requests = charts_of(result), result.recording.requests
    titles = ["Hit rate over time", "Prompt tokens", "Believed and true matches", "Evictions", "Age at eviction"]
    assert list(charts) == titles
    assert [trace["name"] for trace in charts[titles[0]].data] == ["replica 0", "replica 1", "all replicas"]
    assert all(0 <= rate <= 100 for rate in charts[titles[0]].data[-1]["y"])
    seconds = np.diff(time_edges(result.recording, 100))[0]
    computed, cached = (seconds * np.sum(trace["y"]) for trace in charts[titles[1]].data)
    assert cached == pytest.approx(requests["num_cached_tokens"].sum(), rel=1e-3)
    assert computed + cached == pytest.approx(requests["num_prefill_tokens"].sum(), rel=1e-3)
    dots = charts[titles[2]].data[1]
    assert dots["x"] == requests["num_believed_tokens"].tolist() and dots["y"] == requests["num_cached_tokens"].tolist()
    error = (requests["num_believed_tokens"] - requests["num_cached_tokens"]).mean()
    assert f"mean error +{error:.3g} tokens" in charts[titles[2]].note
    evicted = [replica["evicted_blocks"] for replica in result.summary["replicas"]]
    assert charts[titles[3]].data[0]["y"] == evicted
    assert len(charts[titles[4]].data[0]["y"]) == 2


def test_a_belief_that_is_the_truth_has_no_error() -> None:
    result = simulate_sessions("--cluster_config_prefix_index", "oracle", num_blocks=2000)
    chart = charts_of(result)["Believed and true matches"]
    assert "100.0 % believed right; mean error 0 tokens, mean absolute error 0" in chart.note


def test_many_replicas_are_a_band_and_nothing_evicted_is_no_chart() -> None:
    recording = cached_recording(400, 20)
    recording.replicas["evicted_blocks"] = np.zeros(20, np.int64)
    charts = charts_of(result_of(recording))
    names = [trace["name"] for trace in charts["Hit rate over time"].data]
    assert names == ["most", "least to most", "all replicas"] and "Evictions" not in charts


def test_a_run_in_which_nothing_was_scheduled(tmp_path: Path) -> None:
    recording = cached_recording(20, 2)
    for name in ("scheduled_at", "prefill_completed_at", "completed_at"):
        recording.requests[name][:] = np.nan
    for name in ("query_tokens", "hit_tokens", "evicted_blocks"):
        recording.replicas[name] = np.zeros(2, np.int64)
    recording.requests["status"][:] = 0
    result = result_of(recording)
    assert result.summary["prefix_cache"]["hit_rate"] is None
    assert "Prefix cache     - of 0 prompt tokens were cached; 0 blocks evicted" in on_screen(result)
    write_report(tmp_path / "report.html", result)
    assert page_and_charts(tmp_path / "report.html")[0].count("nothing was recorded") >= 2


def test_the_report_shows_caches_beside_another_router(tmp_path: Path) -> None:
    result = simulate_sessions()
    write_report(tmp_path / "report.html", result, {"other": replace(result, wall_seconds=None)})
    page, _ = page_and_charts(tmp_path / "report.html")
    rate = f"{100 * result.summary['prefix_cache']['hit_rate']:.1f} %"
    assert f"<span>Hit rate</span><strong>{rate}</strong>" in page
    assert page.count(f"<td class=number>{rate}</td></tr>") == 2, "of both routers"
    assert "Evicted blocks" in page and "Prefix caches" in page


@pytest.mark.slow
def test_a_browser_draws_the_charts(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", simulate_sessions())
    section = in_browser(tmp_path / "report.html").partition("<h2>Prefix caches</h2>")[2].partition("<section>")[0]
    assert section.count('class="main-svg"') >= 5 and section.count("js-line") >= 5
