"""Results of closed-loop runs, in which arrivals need not ascend with the request's number, or never happen."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from cached_workloads import simulate_sessions

from rl.reward.window import Window
from vidur.compare.figures import METRICS, WARM_UP, Objectives, counted_requests, figures_of
from vidur.compare.record import CellRecord
from vidur.engine.recording import FINISHED, REFUSED, UNFINISHED, Recording
from vidur.metrics.columns import duration, request_columns
from vidur.metrics.event_trace import REQUEST_ARRIVAL, write_event_trace
from vidur.metrics.report import write_report
from vidur.metrics.writer import write_results

OBJECTIVES = Objectives(0.03, 0.011)
SPEEDS = np.ones(2)
SMALL = 40
"""Blocks that hold the first turns of a session, but not the last."""


def in_order(recording: Recording) -> Recording:
    """Return the recording with requests numbered by their arrival."""
    order = np.argsort(recording.requests["arrived_at"], kind="stable")
    return dataclasses.replace(recording, requests={name: column[order] for name, column in recording.requests.items()})


def test_figures_do_not_depend_on_the_numbers_of_requests() -> None:
    recording = simulate_sessions(closed=True).recording
    assert (np.diff(recording.requests["arrived_at"]) < 0).any()
    ours, theirs = (CellRecord.of(item, OBJECTIVES, SPEEDS, 0.0) for item in (recording, in_order(recording)))
    assert ours.figures == pytest.approx(theirs.figures, nan_ok=True) and set(METRICS) < set(ours.figures)
    assert 0 < ours.figures["goodput"] < ours.figures["throughput"]
    assert (ours.load == theirs.load).all() and (ours.placements == theirs.placements).all()


def test_the_ends_are_cut_by_arrival() -> None:
    recording = simulate_sessions(closed=True).recording
    arrived_at, counted = recording.requests["arrived_at"], counted_requests(recording)
    cut = int(WARM_UP * len(arrived_at))
    assert cut > 0 and (np.sort(arrived_at[counted]) == np.sort(arrived_at)[cut:-cut]).all()


def test_gaps_are_between_arrivals_in_time() -> None:
    result = simulate_sessions(closed=True)
    columns = request_columns(result.recording)
    gaps, arrived_at = columns["request_inter_arrival_delay"], columns["arrived_at"]
    assert np.isnan(gaps).sum() == 1 and np.nanmin(gaps) >= 0
    assert np.nansum(gaps) == pytest.approx(np.ptp(arrived_at))
    assert duration(result.recording) == pytest.approx(result.recording.end_time - arrived_at.min())


def test_a_request_arrives_after_the_one_before_it() -> None:
    requests = simulate_sessions(closed=True).recording.requests
    arrived_at, completed_at = (requests[name].reshape(-1, 4) for name in ("arrived_at", "completed_at"))
    assert arrived_at[:, 1:] == pytest.approx(completed_at[:, :-1] + 1.0)


@pytest.mark.parametrize(("flags", "status"), [((), REFUSED), (("--time_limit", "6"), UNFINISHED)])
def test_what_never_arrives_has_no_arrival(tmp_path: Path, flags: tuple[str, ...], status: int) -> None:
    result = simulate_sessions(*flags, closed=True, num_blocks=SMALL if status == REFUSED else 200)
    recording, requests = result.recording, result.recording.requests
    absent = np.isnan(requests["arrived_at"])
    assert 0 < absent.sum() < len(absent) and (requests["status"][absent] == status).all()
    assert (requests["replica"][absent] == -1).all() and np.isnan(requests["scheduled_at"][absent]).all()
    assert result.summary["duration"] == recording.end_time - np.nanmin(requests["arrived_at"])
    figures = figures_of(recording, OBJECTIVES)
    counted = counted_requests(recording)
    assert not counted[absent].any()
    assert figures["unserved"] == absent.sum() + (requests["status"][counted] != FINISHED).sum()
    write_results(result, tmp_path)
    write_report(tmp_path / "both.html", result, {"other": result})
    with (tmp_path / "request_metrics.csv").open() as file:
        assert [row["arrived_at"] == "" for row in csv.DictReader(file)] == absent.tolist()
    write_event_trace(tmp_path / "trace.json", recording)
    events = json.loads((tmp_path / "trace.json").read_text())
    arrivals = [event["request"] for event in events if event["event_type"] == REQUEST_ARRIVAL]
    assert sorted(arrivals) == np.flatnonzero(~absent).tolist()


def test_rewards_count_no_request_before_its_arrival() -> None:
    moments = np.array([0.0, 1.0, 4.0])
    empty = np.zeros((2, 1))
    window = Window(
        decided_at=moments,
        costs=empty,
        outstanding=empty,
        actions=np.zeros(2, np.int64),
        waiting=np.zeros((3, 1)),
        speeds=np.ones(1),
        arrived_at=np.array([0.0, np.nan, 2.0]),
        first_token_at=np.full(3, np.nan),
        completed_at=np.array([3.0, np.nan, np.nan]),
        prompt_tokens=np.ones(3, np.int64),
        output_tokens=np.ones(3, np.int64),
        beta=0.0,
        time_unit=1.0,
    )
    assert window.requests_in_system().tolist() == [1.0, 4.0]
