"""The tables of a recording, and their text."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import empty_recording, made_up_recording, result_of, three_requests

from vidur.engine.recording import UNFINISHED
from vidur.metrics.batch_runs import counted_requests, final_batch, only_batches, whole_batches
from vidur.metrics.columns import batch_columns, request_columns
from vidur.metrics.csv_rows import DECIMALS, format_rows, write_csv
from vidur.metrics.statistics import statistics, weighted_statistics

UPSTREAM_REQUEST_COLUMNS = [
    "Request Id",
    "request_e2e_time",
    "request_e2e_time_normalized",
    "request_execution_time",
    "request_execution_time_normalized",
    "request_model_execution_time",
    "request_model_execution_time_normalized",
    "request_preemption_time",
    "request_scheduling_delay",
    "request_execution_plus_preemption_time",
    "request_execution_plus_preemption_time_normalized",
    "prefill_e2e_time",
    "prefill_time_execution_plus_preemption",
    "prefill_time_execution_plus_preemption_normalized",
    "decode_time_execution_plus_preemption_normalized",
    "request_inter_arrival_delay",
    "request_num_tokens",
    "request_num_prefill_tokens",
    "request_num_decode_tokens",
    "request_pd_ratio",
    "request_num_restarts",
]
UPSTREAM_BATCH_COLUMNS = [
    "Batch Id",
    "batch_num_tokens",
    "batch_num_prefill_tokens",
    "batch_num_decode_tokens",
    "batch_size",
    "batch_execution_time",
]


def test_request_columns_of_three_requests() -> None:
    columns = request_columns(three_requests())
    expected = {
        "request_e2e_time": [3.5, 2.5, 2.5],
        "request_e2e_time_normalized": [3.5 / 3, 2.5, 2.5 / 4],
        "request_execution_time": [3.5, 2.0, 2.5],
        "request_model_execution_time": [3.5, 2.0, 2.5],
        "request_scheduling_delay": [0.0, 0.5, 0.0],
        "request_execution_plus_preemption_time_normalized": [3.5 / 3, 2.0, 2.5 / 4],
        "prefill_e2e_time": [1.0, 2.5, 1.0],
        "prefill_time_execution_plus_preemption": [1.0, 2.0, 1.0],
        "prefill_time_execution_plus_preemption_normalized": [1 / 4, 2 / 6, 1 / 2],
        "decode_time_execution_plus_preemption_normalized": [2.5 / 3, 0.0, 1.5 / 4],
        "request_inter_arrival_delay": [np.nan, 0.5, 9.5],
        "request_num_tokens": [7, 7, 6],
        "request_pd_ratio": [4 / 3, 6.0, 0.5],
        "ttft": [1.0, 2.5, 1.0],
        "tpot": [1.25, np.nan, 0.5],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, rtol=1e-15, err_msg=name)
    assert columns["status"].tolist() == [b"finished"] * 3


def test_upstream_columns_come_first_and_in_its_order() -> None:
    recording = three_requests()
    assert list(request_columns(recording))[: len(UPSTREAM_REQUEST_COLUMNS)] == UPSTREAM_REQUEST_COLUMNS
    columns = next(batch_columns(whole_batches(recording)))
    assert list(columns)[: len(UPSTREAM_BATCH_COLUMNS)] == UPSTREAM_BATCH_COLUMNS


def test_cpu_time_is_taken_off_the_model_execution_time() -> None:
    recording = three_requests()
    recording.requests["cpu_time"] = np.array([0.5, 0.25, 0.0])
    np.testing.assert_allclose(request_columns(recording)["request_model_execution_time"], [3.0, 1.75, 2.5])


def test_times_of_a_request_that_has_not_finished_are_empty() -> None:
    recording = three_requests()
    recording.requests["status"][2] = UNFINISHED
    recording.requests["completed_at"][2] = np.nan
    columns = request_columns(recording)
    assert np.isnan(columns["request_e2e_time"][2]) and np.isnan(columns["request_execution_time"][2])
    assert columns["ttft"][2] == 1.0  # its first token came
    assert columns["request_num_tokens"][2] == 6


def test_batches_of_a_run_are_rows_of_their_own() -> None:
    columns = next(batch_columns(whole_batches(three_requests())))
    assert columns["Batch Id"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert columns["start"].tolist() == [0.0, 1.0, 3.0, 10.0, 11.0, 11.5, 12.0]
    assert columns["batch_execution_time"].tolist() == [1.0, 2.0, 0.5, 1.0, 0.5, 0.5, 0.5]
    assert columns["batch_num_decode_tokens"].tolist() == [0, 1, 1, 0, 1, 1, 1]


def test_batches_in_parts_are_the_batches_at_once() -> None:
    runs = whole_batches(made_up_recording(60, 3))
    runs["count"] = runs["count"] + np.arange(len(runs["count"])) % 5
    whole = next(batch_columns(runs))
    for chunk in (1, 7, 100, 10**6):
        parts = list(batch_columns(runs, chunk))
        for name, column in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), column)


def test_a_pipelined_batch_lasts_until_its_last_stage_ends() -> None:
    recording = made_up_recording(50, 2, num_stages=3)
    runs = whole_batches(recording)
    assert (runs["stage"] == 0).all()
    np.testing.assert_allclose(runs["execution_time"], 3 * runs["iteration_time"])
    # One batch is in flight at a time, so its state stands until it ends.
    np.testing.assert_allclose(runs["held_until"], runs["start"] + 3 * runs["iteration_time"])


@given(first=st.none() | st.integers(0, 9), last=st.none() | st.integers(0, 9))
def test_only_batches_cuts_runs(first: int | None, last: int | None) -> None:
    runs = whole_batches(three_requests())
    every = next(batch_columns(runs))
    numbers = every["Batch Id"]
    kept = (numbers >= (first or 0)) & (numbers <= (99 if last is None else last))
    cut = next(batch_columns(only_batches(runs, first, last)))
    for name in UPSTREAM_BATCH_COLUMNS:
        np.testing.assert_array_equal(cut[name], every[name][kept], err_msg=name)


def test_requests_are_counted_by_the_batch_they_finish_in() -> None:
    recording = three_requests()
    runs = whole_batches(recording)
    assert final_batch(recording, runs, np.arange(3)).tolist() == [2, 1, 6]
    assert counted_requests(recording, runs, 2, 5).tolist() == [True, False, False]
    assert counted_requests(recording, runs, None, 1).tolist() == [False, True, False]
    assert counted_requests(recording, runs, None, None).all()


def test_frames_have_the_columns_of_the_files(tmp_path: Path) -> None:
    result = result_of(made_up_recording(40, 2))
    write_csv(tmp_path / "requests.csv", request_columns(result.recording))
    read = pd.read_csv(tmp_path / "requests.csv")
    pd.testing.assert_frame_equal(read, result.requests, check_dtype=False, rtol=0, atol=1e-11)
    assert len(result.batches) == result.recording.batches["count"].sum()
    assert result.replicas["num_batches"].sum() == len(result.batches)


def test_empty_frames_have_columns() -> None:
    result = result_of(empty_recording(2))
    assert list(result.requests)[: len(UPSTREAM_REQUEST_COLUMNS)] == UPSTREAM_REQUEST_COLUMNS
    assert len(result.requests) == len(result.batches) == 0
    assert len(result.replicas) == 2


numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, np.nan, 0.9999999999999, 1e-13, -1e-13, 123456789.125])


@given(st.lists(st.tuples(numbers, st.integers(-(2**40), 2**40)), min_size=1, max_size=30))
def test_formatted_numbers_read_back(rows: list[tuple[float, int]]) -> None:
    floats, integers = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    text = format_rows([floats, integers]).decode()
    lines = text.splitlines()
    assert text.endswith("\n") and len(lines) == len(rows)
    for line, value, number in zip(lines, floats, integers, strict=True):
        shown, whole = line.split(",")
        assert int(whole) == number
        if np.isnan(value):
            assert shown == ""
        else:
            assert float(shown) == pytest.approx(value, rel=1e-15, abs=0.51 * 10.0**-DECIMALS)
            assert "." in shown and (shown[-1] != "0" or shown.endswith(".0"))
            assert not shown.startswith("-0.0\n") and shown != "-0.0"


def test_csv_of_more_rows_than_a_chunk(tmp_path: Path) -> None:
    values = np.random.default_rng(0).exponential(size=10_000)
    write_csv(tmp_path / "x.csv", {"a": values, "b": np.arange(10_000), "c": np.array([b"yes", b""] * 5000)})
    read = np.genfromtxt(io.StringIO((tmp_path / "x.csv").read_text()), delimiter=",", skip_header=1, dtype=None)
    np.testing.assert_allclose(read["f0"], values, rtol=0, atol=1e-12)
    assert (read["f1"] == np.arange(10_000)).all()
    assert not list(tmp_path.glob(".*"))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), min_size=1, max_size=40))
def test_weighted_statistics_are_those_of_the_repeated_values(rows: list[tuple[float, int]]) -> None:
    values, counts = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    expected = statistics(np.repeat(values, counts))
    assert weighted_statistics(values, counts) == pytest.approx(expected)
    whole = np.floor(values).astype(np.int32)
    assert weighted_statistics(whole, counts) == pytest.approx(statistics(np.repeat(whole, counts)))


def test_statistics_leave_out_nan_and_know_nothing_of_nothing() -> None:
    assert statistics(np.array([1.0, np.nan, 3.0]))["mean"] == 2.0
    assert set(statistics(np.array([np.nan])).values()) == {None}
    assert set(weighted_statistics(np.zeros(0), np.zeros(0)).values()) == {None}
