"""Inter-token latency: against the tokens of requests one by one, where the members of all batches are recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import result_of, three_requests

from vidur import SimulationConfig, SimulationResult, simulate
from vidur.metrics.statistics import weighted_statistics
from vidur.report.chart import cumulative

BASE = SimulationConfig().replace(
    model_name="meta-llama/Meta-Llama-3-8B", num_requests=60, enable_chrome_trace=True, chrome_trace_max_batches=10**6,
    length_generator_config="quantile", distribution="azure_conv_2023",
)  # fmt: skip


def token_times(result: SimulationResult) -> dict[int, list[float]]:
    """When each request had each of its output tokens, from the members of every batch."""
    recording, runs = result.recording, result.runs
    assert recording.members is not None and recording.member_tokens is not None
    offsets, members = recording.members
    rows = np.flatnonzero(recording.batches["stage"] == 0)
    assert len(offsets) == len(recording.batches["stage"]) + 1, "members of all rows are needed"
    left = recording.requests["num_prefill_tokens"].copy()
    context = np.zeros(len(left), np.int64)
    times: dict[int, list[float]] = {}
    # In the order in which they ended.
    ends = runs["scheduled_at"] + runs["execution_time"]
    for run in np.lexsort((runs["batch_id"], ends)):
        row = rows[run]
        for index in range(offsets[row], offsets[row + 1]):
            request, tokens = int(members[index]), int(recording.member_tokens[index])
            if left[request] <= 0 and tokens > 1:
                # After a preemption by recomputation its tokens so far are its prompt.
                left[request], context[request] = context[request], 0
            if left[request] > 0:
                left[request] -= tokens
                context[request] += tokens
                if left[request] == 0:
                    context[request] += 1
                    times.setdefault(request, []).append(float(ends[run]))
            else:
                context[request] += runs["count"][run]
                seconds = runs["iteration_time"][run]
                times[request] += [float(ends[run]) + turn * seconds for turn in range(runs["count"][run])]
    return times


def gaps_of(times: list[list[float]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.sort(np.concatenate([np.diff(own) for own in times]))


def expanded(result: SimulationResult) -> np.ndarray[Any, np.dtype[np.float64]]:
    values, weights = result.itl()
    return np.sort(np.repeat(values, weights))


def small_run(batcher: str, stages: int, qps: float, seed: int, **more: Any) -> SimulationResult:
    block_size = {"block_size": 1} if batcher == "lightllm" else {}
    return simulate(
        BASE.replace(
            replica_scheduler_config=batcher, num_pipeline_stages=stages, qps=qps, **block_size, **more,
            synthetic_request_generator_config_seed=seed, quantile_request_length_generator_config_seed=seed,
        )
    )  # fmt: skip


@settings(max_examples=25)
@given(
    st.sampled_from(["sarathi", "vllm", "vllm_v1", "orca", "faster_transformer", "lightllm"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([0.5, 4.0, 30.0]),
    st.integers(0, 1000),
)
def test_latencies_are_those_of_the_tokens_one_by_one(batcher: str, stages: int, qps: float, seed: int) -> None:
    result = small_run(batcher, 1 if batcher == "lightllm" else stages, qps, seed)
    requests = result.recording.requests
    times = token_times(result)
    for request, own in times.items():
        assert len(own) == requests["num_decode_tokens"][request]
        assert own[-1] == pytest.approx(requests["completed_at"][request])
    exact = result.token_latencies.exact
    # With prefills in batches of their own, which of the batches in a pipeline a request is in stays open; and
    # full batches leave decodes out.
    if batcher != "vllm" or stages == 1:
        assert exact > 0.8
    if exact == 1.0:
        np.testing.assert_allclose(expanded(result), gaps_of(list(times.values())), rtol=1e-9, atol=1e-12)
    assert_sums(result)


def assert_sums(result: SimulationResult) -> None:
    """Latencies add up to completion - first token, and there is one for each token but the first."""
    values, weights = result.itl()
    requests = result.recording.requests
    spans = requests["completed_at"] - requests["prefill_completed_at"]
    assert (values * weights).sum() == pytest.approx(spans[requests["num_decode_tokens"] > 1].sum())
    assert weights.sum() == (requests["num_decode_tokens"] - 1).sum() and (weights > 0).all() and (values > 0).all()


@pytest.mark.parametrize("batcher", ["sarathi", "vllm", "vllm_v1"])
@pytest.mark.parametrize("stages", [1, 2])
def test_of_preempted_requests_they_are_estimated(batcher: str, stages: int) -> None:
    result = small_run(batcher, stages, 30.0, 1, num_blocks=700)
    assert result.recording.requests["num_restarts"].sum() > 0
    assert result.token_latencies.exact < 1.0
    assert_sums(result)
    if batcher == "vllm" and stages == 2:
        return
    # Estimates keep the percentiles near: long waits are as many and as long in the sum.
    values, weights = result.itl()
    actual = gaps_of(list(token_times(result).values()))
    ours, theirs = weighted_statistics(values, weights), weighted_statistics(actual, np.ones(len(actual), np.int64))
    for name in ("mean", "p50", "p90"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.05 if stages == 1 else 0.2), name


def test_a_replica_that_fails_takes_the_tokens_with_it() -> None:
    events = [{"time": 3, "replica": 0, "action": "fail"}, {"time": 5, "replica": 0, "action": "return"}]
    result = simulate(BASE.replace(num_replicas=2, qps=8, replica_events=events))
    assert result.recording.requests["num_reroutes"].sum() > 0
    assert result.token_latencies.exact == 1.0
    assert_sums(result)


def test_what_the_summary_says_of_three_requests() -> None:
    recording = three_requests()
    result = result_of(recording)
    requests = recording.requests
    values, weights = result.itl()
    several = requests["num_decode_tokens"] > 1
    assert weights.sum() == (requests["num_decode_tokens"] - 1).sum()
    spans = (requests["completed_at"] - requests["prefill_completed_at"])[several]
    assert (values * weights).sum() == pytest.approx(spans.sum())
    figures = result.summary["latency"]["itl"]
    assert figures["exact"] == 1.0 and figures["mean"] == pytest.approx(spans.sum() / weights.sum())


def test_without_recorded_batches_there_is_none() -> None:
    result = simulate(BASE.replace(write_metrics=False, enable_chrome_trace=False))
    assert len(result.itl()[0]) == 0
    assert set(result.summary["latency"]["itl"].values()) == {None}


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 9)), min_size=1, max_size=40), st.integers(2, 60))
def test_a_weighted_curve_is_that_of_the_values_one_by_one(pairs: list[tuple[float, int]], num_points: int) -> None:
    values, weights = np.array([value for value, _ in pairs]), np.array([weight for _, weight in pairs])
    x, y = cumulative(values, num_points, weights)
    every = np.repeat(values, weights)
    assert len(x) <= max(num_points + 1, 2) and y[-1] == pytest.approx(100)
    for position, height in zip(x[np.append(np.diff(x) > 0, True)], y[np.append(np.diff(x) > 0, True)], strict=True):
        assert height <= 100 * (every <= position).mean() + 1e-9
