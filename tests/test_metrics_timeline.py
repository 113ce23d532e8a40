"""Recordings over time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import empty_recording, made_up_recording, result_of, three_requests

from vidur.metrics.timeline import binned_mean, timeline
from vidur.metrics.token_completions import token_completions


def test_three_requests_in_half_second_bins() -> None:
    recording = three_requests()
    lines = timeline(recording, result_of(recording).runs, 25)
    busy = [1.0] * 7 + [0.0] * 13 + [1.0] * 5
    assert lines.edges[0] == 0.0 and lines.edges[-1] == 12.5
    np.testing.assert_allclose(lines.busy[0], busy, atol=1e-12)
    np.testing.assert_allclose(lines.running[0], [1, 1, 2, 2, 2, 2, 1] + [0] * 13 + [1] * 5, atol=1e-12)
    np.testing.assert_allclose(lines.waiting[0], [0, 0, 1, 1, 1, 1, 0] + [0] * 18, atol=1e-12)
    np.testing.assert_allclose(lines.kv_use[0], lines.running[0] / 10, atol=1e-12)


@given(num_bins=st.integers(1, 700), num_stages=st.integers(1, 3))
def test_binned_busy_time_sums_to_the_total(num_bins: int, num_stages: int) -> None:
    recording = RECORDINGS[num_stages]
    lines = timeline(recording, result_of(recording).runs, num_bins)
    binned = (lines.busy * np.diff(lines.edges)).sum(axis=1)
    total = np.sum([recording.replicas[f"busy_time_stage{stage}"] for stage in range(num_stages)], axis=0)
    np.testing.assert_allclose(binned, total / num_stages, rtol=1e-9)
    assert (lines.busy <= 1 + 1e-9).all() and (lines.busy >= -1e-9).all()


RECORDINGS = {num_stages: made_up_recording(80, 3, num_stages) for num_stages in (1, 2, 3)}


def test_mean_kv_use_is_that_of_the_timeline() -> None:
    recording = RECORDINGS[2]
    result = result_of(recording, {"cluster_config": {"num_replicas": 3, "replica_config": {"num_pipeline_stages": 2}}})
    lines = timeline(recording, result.runs, 77)
    means = [replica["kv_use_mean"] for replica in result.summary["replicas"]]
    np.testing.assert_allclose(lines.kv_use.mean(axis=1), means, rtol=1e-9)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 9)), max_size=20), st.integers(1, 30))
def test_binned_mean_keeps_the_integral(pieces: list[tuple[float, float, float]], num_bins: int) -> None:
    gaps, lengths, values = (np.array(column) for column in zip(*pieces, strict=True)) if pieces else [np.zeros(0)] * 3
    ends = np.cumsum(gaps + lengths)
    edges = np.linspace(0.0, float(ends[-1] if len(ends) else 0.0) + 1.0, num_bins + 1)
    binned = binned_mean(ends - lengths, ends, values, edges)
    assert (binned * np.diff(edges)).sum() == pytest.approx((values * lengths).sum(), abs=1e-9)


def test_nothing_happened() -> None:
    lines = timeline(empty_recording(3), result_of(empty_recording(3)).runs, 50)
    assert lines.busy.shape == (3, 1) and not lines.busy.any()


def test_token_completions_of_three_requests() -> None:
    recording = three_requests()
    columns = token_completions(recording, result_of(recording).runs, 26)
    at = {time: place for place, time in enumerate(columns["Time (sec)"].tolist())}
    prefill = {0.5: 0, 1.0: 4, 2.5: 4, 3.0: 10, 10.5: 10, 11.0: 12, 12.5: 12}
    decode = {0.5: 0, 2.5: 0, 3.0: 1, 3.5: 2, 11.0: 2, 11.5: 3, 12.0: 4, 12.5: 5}
    for name, expected in (("prefill_completion", prefill), ("decode_completion", decode)):
        assert {time: columns[name][at[time]] for time in expected} == expected


def test_every_token_completes() -> None:
    for num_stages in (1, 3):
        recording = made_up_recording(60, 2, num_stages)
        columns = token_completions(recording, result_of(recording).runs, None)
        assert len(columns["Time (sec)"]) == 1000
        requests = recording.requests
        assert columns["prefill_completion"][-1] == requests["num_prefill_tokens"].sum()
        assert columns["decode_completion"][-1] == (requests["num_decode_tokens"] - 1).sum()
        assert (np.diff(columns["decode_completion"]) >= 0).all()
