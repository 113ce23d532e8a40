"""summary.json and what is printed."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from recordings import empty_recording, made_up_recording, result_of, three_requests

from vidur.engine.recording import REFUSED, UNFINISHED
from vidur.metrics.console import MAX_WIDTH, print_summary
from vidur.metrics.operations import operation_totals
from vidur.metrics.result import SimulationResult
from vidur.metrics.summary import summary
from vidur.metrics.text import in_seconds, significant

TWO_STAGES = {"cluster_config": {"num_replicas": 2, "replica_config": {"num_pipeline_stages": 2}}}


def printed(result: SimulationResult) -> str:
    file = io.StringIO()
    print_summary(result, file)
    return file.getvalue()


def test_summary_of_three_requests() -> None:
    figures = result_of(three_requests()).summary
    counts = {"total": 3, "finished": 3, "refused": 0, "unfinished": 0, "restarts": 0, "reroutes": 0}
    assert figures["requests"] == counts
    assert not figures["partial"]
    assert figures["duration"] == figures["end_time"] == 12.5
    assert figures["throughput"]["requests_per_second"] == 3 / 12.5
    assert figures["throughput"]["output_tokens_per_second"] == 8 / 12.5
    assert figures["throughput"]["tokens_per_second"] == 20 / 12.5
    assert figures["latency"]["ttft"]["mean"] == 1.5
    assert figures["latency"]["ttft"]["p90"] == pytest.approx(np.percentile([1.0, 1.0, 2.5], 90))
    assert figures["latency"]["tpot"] == pytest.approx(
        {"mean": 0.875, "p50": 0.875, "p90": 1.175, "p95": 1.2125, "p99": 1.2425, "max": 1.25}
    )
    assert figures["batches"]["count"] == 7
    assert figures["batches"]["size"]["mean"] == pytest.approx(8 / 7)
    assert figures["batches"]["num_tokens"]["mean"] == pytest.approx(17 / 7)
    assert figures["batches"]["execution_time"]["mean"] == pytest.approx(6 / 7)
    (replica,) = figures["replicas"]
    assert (replica["requests"], replica["busy"], replica["kv_use_max"]) == (3, 0.48, 0.2)
    assert replica["kv_use_mean"] == pytest.approx((1 * 1 + 2 * 2 + 0.5 + 1 + 1.5) / 10 / 12.5)


def test_duration_starts_at_the_first_arrival() -> None:
    recording = three_requests()
    for name in ("arrived_at", "scheduled_at", "prefill_completed_at", "completed_at"):
        recording.requests[name] = recording.requests[name] + 100.0
    recording.end_time += 100.0
    assert result_of(recording).summary["duration"] == 12.5


def test_flop_utilization_is_upstreams() -> None:
    """Llama-2-7b on an A100: 6,476,005,376 weights in the layers, 32 layers of 32 heads of 128."""
    recording = three_requests()
    (replica,) = result_of(recording).summary["replicas"]
    pairs = 16 + 6 + 36 + 7 + 4 + 4 + 5 + 6
    flops = 2 * 17 * 6_476_005_376 + 4 * 32 * 32 * 128 * pairs
    assert replica["mfu"] == pytest.approx(flops / 12.5 / (312 * 2**40), rel=1e-12)


@pytest.mark.parametrize(
    ("objectives", "met"),
    [((None, None), None), ((1.0, None), 2), ((None, 1.0), 2), ((0.5, None), 0), ((2.5, 0.5), 2), ((9.0, 9.0), 3)],
)
def test_goodput(objectives: tuple[float | None, float | None], met: int | None) -> None:
    figures = summary(result_of(three_requests()), *objectives)
    if met is None:
        assert "goodput" not in figures
    else:
        assert figures["goodput"]["requests_per_second"] == met / 12.5
        assert figures["goodput"]["fraction_of_finished"] == met / 3


def test_partial_run_counts_only_what_finished() -> None:
    recording = made_up_recording(100, 2, time_limit=10.0)
    figures = result_of(recording).summary
    assert figures["partial"] and figures["requests"]["unfinished"] > 0
    assert sum(figures["requests"][name] for name in ("finished", "refused", "unfinished")) == 100
    assert figures["latency"]["e2e"]["max"] <= 10.5
    assert "partial" in printed(result_of(recording))


def test_refused_requests_are_reported() -> None:
    recording = three_requests()
    recording.requests["status"][1] = REFUSED
    for name in ("scheduled_at", "prefill_completed_at", "completed_at"):
        recording.requests[name][1] = np.nan
    result = result_of(recording)
    assert result.summary["requests"]["refused"] == 1
    assert result.summary["latency"]["ttft"]["max"] == 1.0
    assert "2 of 3 finished, 1 refused" in printed(result)


def nothing_but_counts(value: Any) -> bool:
    return value is None or value in (0, 0.0, False)


def test_empty_run_has_nulls() -> None:
    figures = result_of(empty_recording(2)).summary
    json.dumps(figures, allow_nan=False)
    for section in ("throughput", "requests"):
        assert all(nothing_but_counts(value) for value in figures[section].values())
    for statistics in figures["latency"].values():
        assert set(statistics.values()) == {None}
    assert figures["replicas"][1]["busy"] is None and figures["replicas"][1]["mfu"] is None
    assert "0 of 0 finished" in printed(result_of(empty_recording(2)))


def test_nothing_finished() -> None:
    recording = three_requests()
    recording.requests["status"][:] = UNFINISHED
    recording.requests["completed_at"][:] = np.nan
    recording.partial = True
    figures = result_of(recording).summary
    assert figures["latency"]["ttft"]["p50"] is None
    assert figures["throughput"]["requests_per_second"] == 0.0


def test_run_without_recorded_batches() -> None:
    recording = three_requests()
    recording.batches = empty_recording().batches
    recording.members = None
    figures = result_of(recording).summary
    assert figures["batches"]["count"] is None and figures["speed"]["batches_per_second"] is None
    assert figures["replicas"][0]["busy"] == 0.48
    assert figures["replicas"][0]["kv_use_mean"] is None
    recording.replicas["num_batches"] = np.array([7])
    assert result_of(recording).summary["batches"]["count"] == 7


def test_batch_index_limits() -> None:
    figures = result_of(three_requests(), min_batch_index=1, max_batch_index=4).summary
    assert figures["batches"]["count"] == 4
    assert figures["batches"]["size"]["mean"] == pytest.approx(5 / 4)
    assert figures["latency"]["e2e"]["mean"] == 3.0  # requests 0 and 1
    assert figures["requests"]["finished"] == 3


def test_sections_follow_the_flags() -> None:
    flags = {"store_batch_metrics": False, "store_utilization_metrics": False}
    figures = result_of(three_requests(), **flags).summary
    assert "batches" not in figures and "busy" not in figures["replicas"][0]
    assert "operation_seconds" not in figures
    assert "operation_seconds" in result_of(three_requests(), store_operation_metrics=True).summary
    assert printed(result_of(three_requests(), **flags))


@pytest.mark.parametrize("num_stages", [1, 2])
def test_operations_add_up_to_the_busy_time(num_stages: int) -> None:
    recording = made_up_recording(40, 2, num_stages)
    result = result_of(recording, TWO_STAGES if num_stages == 2 else None)
    busy = sum(recording.replicas[f"busy_time_stage{stage}"].sum() for stage in range(num_stages))
    totals = operation_totals(result)
    assert sum(totals.values()) == pytest.approx(busy)
    assert totals["attn_decode"] > 0 and totals["mlp_up_proj"] == pytest.approx(totals["mlp_down_proj"] * 3 / 4)


def test_printed_summary_is_narrow_and_aligned() -> None:
    text = printed(result_of(made_up_recording(40, 4)))
    assert max(map(len, text.splitlines())) <= MAX_WIDTH
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith(("TTFT", "TPOT", "E2E"))]
    assert len({len(row.rstrip()) for row in rows}) == 1
    assert len([line for line in text.splitlines() if line[:1].isdigit()]) == 4


def test_many_replicas_are_summed_up() -> None:
    groups = [{"name": "fast", "num_replicas": 17}, {"name": "slow", "num_replicas": 23}]
    recording = made_up_recording(100, 40, qps=50)
    recording.replicas["group"][17:] = 1
    text = printed(result_of(recording, {"cluster_config": {"replica_groups": groups}}))
    assert max(map(len, text.splitlines())) <= MAX_WIDTH
    lines = [line.split() for line in text.splitlines()]
    assert ["fast", "17"] in [line[:2] for line in lines] and ["slow", "23"] in [line[:2] for line in lines]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (9.999, "10.0"),
        (9.7, "9.70"),
        (999.9, "1,000"),
        (12345.6, "12,346"),
    ],
)
def test_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_times_with_units() -> None:
    assert [in_seconds(value) for value in (0.0123, 1.5, None)] == ["12.3 ms", "1.50 s", "-"]
