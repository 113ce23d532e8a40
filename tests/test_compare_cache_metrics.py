"""The metrics of prefix caches in vidur.compare: their values, and where they are shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cached_workloads import session_requests, simulate_sessions
from report_pages import in_browser, unpacked
from sweeps import made_up_results

from vidur.compare.cell import workload_digest
from vidur.compare.console import print_results
from vidur.compare.figures import CACHE_METRICS, METRICS, Objectives, counted_requests, figures_of, value_text
from vidur.compare.markdown import markdown
from vidur.compare.record import CellRecord
from vidur.compare.report import write_report
from vidur.compare.results import Results
from vidur.compare.writer import write_sweep

OBJECTIVES = Objectives(1.0, 0.05)


def results_with_caches(metric: str = "hit_rate") -> Results:
    """Return results whose scenario a93 caches, under round_robin and lor: lor half a prompt, round_robin a quarter."""
    results = made_up_results()
    for point in results.points:
        if point.scenario.name == "a93":
            for scheduler, rate in (("round_robin", 0.25), ("lor", 0.5)):
                for seed, record in point.records[scheduler].items():
                    record.figures.update(hit_rate=rate + 0.001 * seed, prefill_seconds_saved=100.0 * rate + seed)
    # `metrics` is computed once.
    return Results(**{**vars(results), "metric": metric})


def test_figures_are_those_of_the_counted_requests() -> None:
    recording = simulate_sessions().recording
    figures, counted = figures_of(recording, OBJECTIVES), counted_requests(recording)
    assert set(figures) == {*METRICS, *CACHE_METRICS}
    requests, replicas = recording.requests, recording.replicas
    prompts, cached = (requests[name][counted] for name in ("num_prefill_tokens", "num_cached_tokens"))
    assert figures["hit_rate"] == cached.sum() / prompts.sum()
    saved = sum(
        tokens * replicas["prefill_token_seconds"][replica] + tokens**2 / 2 * replicas["prefill_pair_seconds"][replica]
        for tokens, replica in zip(cached.tolist(), requests["replica"][counted], strict=True)
    )
    assert figures["prefill_seconds_saved"] == pytest.approx(saved) and saved > 0


def test_a_record_keeps_them() -> None:
    record = CellRecord.of(simulate_sessions().recording, OBJECTIVES, np.ones(2), 0.1)
    again = CellRecord.from_document(json.loads(json.dumps(record.to_document())))
    assert again.figures == pytest.approx(record.figures, nan_ok=True)


def test_texts() -> None:
    assert value_text("hit_rate", 0.625) == "62.5 %"
    assert value_text("prefill_seconds_saved", 12.34) == "12.3 s"
    assert value_text("hit_rate", math.nan) == "-"


def test_they_are_offered_only_if_a_simulation_caches() -> None:
    assert made_up_results().metrics == METRICS
    results = results_with_caches()
    assert results.metrics == METRICS + CACHE_METRICS
    rows = [row for row in results.rows() if row["metric"] in CACHE_METRICS]
    assert {(row["scenario"], row["scheduler"]) for row in rows} == {("a93", "round_robin"), ("a93", "lor")}
    (row,) = (
        row for row in rows if (row["scheduler"], row["metric"], row["load"]) == ("lor", "prefill_seconds_saved", 0.6)
    )
    assert row["mean"] == 52.0 and row["unit"] == "s" and row["verdict"] == "win"


def test_what_is_missing_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    results = results_with_caches()
    print_results(results)
    printed = capsys.readouterr().out
    assert "hit rate, difference from round_robin in percent" in printed
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    assert "a93, 4 replicas, 60 % load 25.2 % +99.2 - -" in rows
    assert "b88, 4 replicas, 60 % load - - - -" in rows
    assert any(row.startswith("a93, 4 replicas, 60 % load lor 50.2 % +99.2 ±") for row in rows)
    assert "| b88, 4 replicas, 90 % load | - | - | - | - |" in markdown(results)


def test_files_have_a_column_and_the_page_a_metric(tmp_path: Path) -> None:
    write_sweep(results_with_caches(), tmp_path)
    frame = pd.read_parquet(tmp_path / "results.parquet")
    caching = (frame.scenario == "a93") & frame.scheduler.isin(["round_robin", "lor"])
    assert (frame["hit_rate"].notna() == caching).all()
    data = json.loads(unpacked((tmp_path / "report.html").read_text(), "sweep"))
    names = [metric["name"] for metric in data["metrics"]]
    assert names == [*METRICS, *CACHE_METRICS] and names[data["metric"]] == "hit_rate"
    assert data["means"][0][1][-2][0] == pytest.approx(0.502) and data["means"][0][2][-2:] == [None, None]
    write_sweep(made_up_results(), tmp_path)
    assert not {*CACHE_METRICS} & {*pd.read_parquet(tmp_path / "results.parquet").columns}


def test_requests_of_other_contents_or_turns_are_other_requests() -> None:
    tables = [session_requests(), session_requests(closed=True)]
    tables += [type(table)(**{**vars(table), "content": None, "turns": None}) for table in tables]
    assert len({workload_digest(table) for table in tables}) == 4


@pytest.mark.slow
def test_a_browser_shows_shares_in_percent(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", results_with_caches())
    page = in_browser(tmp_path / "report.html", metric="hit_rate")
    assert "hit rate, higher is better" in page and ">25.2 %<" in page and ">-<" in page
