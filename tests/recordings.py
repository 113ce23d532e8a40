"""Recordings made without the engine: one by hand, and plausible ones of any size."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.config import SimulationConfig
from vidur.engine.plan import HardwarePlan
from vidur.engine.recording import FINISHED, UNFINISHED, Columns, Recording
from vidur.execution_time_predictor.tables import LAYER_OPS, POST_NORM_OP, ExecutionTimeTables
from vidur.metrics.result import SimulationResult

NUM_BLOCKS = 2000
BLOCK_SIZE = 16
BATCH_COLUMNS = (
    *("replica", "stage", "batch_id", "scheduled_at", "start", "iteration_time", "count"),
    *("batch_size", "num_tokens", "num_prefill_tokens", "decode_size", "decode_kv_tokens"),
    *("prefill_kv_tokens", "prefill_chunk", "kv_blocks", "num_waiting", "num_running"),
)
SECONDS = {"scheduled_at", "start", "iteration_time"}


def three_requests() -> Recording:
    """One replica of ten blocks. Batches of 1, 2 and 0.5 s from 0 s on, of 1 and 3 x 0.5 s from 10 s on.

    Request 0 (4 + 3 tokens) runs in the first three, request 1 (6 + 1) in the second, request 2 (2 + 4) in the others.
    """
    rows = [
        # In the order of BATCH_COLUMNS.
        (0, 0, 0, 0.0, 0.0, 1.0, 1, 1, 4, 4, 0, 0, 0, 4, 1, 0, 1),
        (0, 0, 1, 1.0, 1.0, 2.0, 1, 2, 7, 6, 1, 5, 0, 6, 2, 1, 2),
        (0, 0, 2, 3.0, 3.0, 0.5, 1, 1, 1, 0, 1, 6, 0, 0, 1, 0, 1),
        (0, 0, 3, 10.0, 10.0, 1.0, 1, 1, 2, 2, 0, 0, 0, 2, 1, 0, 1),
        (0, 0, 4, 11.0, 11.0, 0.5, 3, 1, 1, 0, 1, 3, 0, 0, 1, 0, 1),
    ]
    requests: Columns = {
        "arrived_at": np.array([0.0, 0.5, 10.0]),
        "num_prefill_tokens": np.array([4, 6, 2]),
        "num_decode_tokens": np.array([3, 1, 4]),
        "replica": np.array([0, 0, 0], np.int32),
        "scheduled_at": np.array([0.0, 1.0, 10.0]),
        "prefill_completed_at": np.array([1.0, 3.0, 11.0]),
        "completed_at": np.array([3.5, 3.0, 12.5]),
        "execution_time": np.array([3.5, 2.0, 2.5]),
        "preempted_time": np.array([0.0, 0.0, 0.0]),
        "num_restarts": np.array([0, 0, 0]),
        "num_reroutes": np.array([0, 0, 0]),
        "status": np.array([FINISHED, FINISHED, FINISHED], np.int8),
    }
    return Recording(
        requests=requests,
        batches=batch_arrays(rows),
        replicas={
            "num_blocks": np.array([10]),
            "busy_time_stage0": np.array([6.0]),
            "num_requests": np.array([3]),
            "num_preemptions": np.array([0]),
            "attention_token_pairs": np.array([16.0 + 6.0 + 36.0 + 7.0 + 4.0 + 4.0 + 5.0 + 6.0]),
            "group": np.array([0], np.int32),
        },
        end_time=12.5,
        partial=False,
        routing_decisions=3,
        members=(np.array([0, 1, 3, 4, 5, 6]), np.array([0, 0, 1, 0, 2, 2], np.int32)),
        member_tokens=np.array([4, 1, 6, 1, 2, 1], np.int32),
    )


def batch_arrays(rows: list[tuple[Any, ...]]) -> Columns:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(BATCH_COLUMNS)
    return {
        name: np.array(column, np.float64 if name in SECONDS else np.int64 if name == "batch_id" else np.int32)
        for name, column in zip(BATCH_COLUMNS, columns, strict=True)
    }


def empty_recording(num_replicas: int = 1) -> Recording:
    """Nothing arrived."""
    whole, seconds = np.zeros(0, np.int64), np.zeros(0)
    counts = ("num_prefill_tokens", "num_decode_tokens", "num_restarts", "num_reroutes")
    times = ("arrived_at", "scheduled_at", "prefill_completed_at", "completed_at", "execution_time", "preempted_time")
    requests: Columns = dict.fromkeys(counts, whole) | dict.fromkeys(times, seconds)
    requests |= {"replica": np.zeros(0, np.int32), "status": np.zeros(0, np.int8)}
    return Recording(requests, batch_arrays([]), _replica_arrays(num_replicas, 1), 0.0, False, 0)


def _replica_arrays(num_replicas: int, num_stages: int) -> Columns:
    columns: Columns = {
        "num_blocks": np.full(num_replicas, NUM_BLOCKS),
        "num_requests": np.zeros(num_replicas, np.int64),
        "num_preemptions": np.zeros(num_replicas, np.int64),
        "attention_token_pairs": np.zeros(num_replicas),
        "group": np.zeros(num_replicas, np.int32),
    }
    return columns | {f"busy_time_stage{stage}": np.zeros(num_replicas) for stage in range(num_stages)}


def made_up_recording(
    num_requests: int = 200,
    num_replicas: int = 2,
    num_stages: int = 1,
    qps: float = 4.0,
    seed: int = 0,
    time_limit: float = np.inf,
) -> Recording:
    """Continuous batching of requests placed in turn, each iteration one batch of all that are admitted."""
    rng = np.random.default_rng(seed)
    arrived_at = np.cumsum(rng.exponential(1 / qps, num_requests))
    recording = empty_recording(num_replicas)
    recording.replicas = _replica_arrays(num_replicas, num_stages)
    recording.requests = {
        "arrived_at": arrived_at,
        "num_prefill_tokens": rng.integers(10, 1500, num_requests),
        "num_decode_tokens": rng.integers(1, 200, num_requests),
        "replica": (np.arange(num_requests) % num_replicas).astype(np.int32),
        **{name: np.full(num_requests, np.nan) for name in ("scheduled_at", "prefill_completed_at", "completed_at")},
        **{name: np.zeros(num_requests) for name in ("execution_time", "preempted_time")},
        **{name: np.zeros(num_requests, np.int64) for name in ("num_restarts", "num_reroutes")},
        "status": np.full(num_requests, UNFINISHED, np.int8),
    }
    rows: list[tuple[Any, ...]] = []
    members: list[list[int]] = []
    for replica in range(num_replicas):
        _run_replica(recording, replica, num_stages, time_limit, rows, members)
    order = sorted(range(len(rows)), key=lambda row: rows[row][4])
    recording.batches = batch_arrays([rows[row] for row in order])
    offsets = np.cumsum([0, *(len(members[row]) for row in order)])
    recording.members = offsets, np.array([m for row in order for m in members[row]], np.int32)
    ends = recording.batches["start"] + recording.batches["count"] * recording.batches["iteration_time"]
    recording.end_time = float(ends.max(initial=0.0))
    recording.partial = bool((recording.requests["status"] != FINISHED).any())
    recording.routing_decisions = num_requests
    return recording


def _run_replica(
    recording: Recording,
    replica: int,
    num_stages: int,
    time_limit: float,
    rows: list[tuple[Any, ...]],
    members: list[list[int]],
) -> None:
    requests, replicas = recording.requests, recording.replicas
    waiting = deque(int(request) for request in np.flatnonzero(requests["replica"] == replica))
    running: list[int] = []
    context: dict[int, int] = {}
    now = 0.0
    number = replica * 10_000_000
    while (waiting or running) and now < time_limit:
        if not running:
            now = max(now, float(requests["arrived_at"][waiting[0]]))
        new: list[int] = []
        while waiting and len(running) < 32 and requests["arrived_at"][waiting[0]] <= now and len(new) < 2:
            new.append(waiting.popleft())
            running.append(new[-1])
        decoding = [request for request in running if request not in new]
        queued = sum(requests["arrived_at"][request] <= now for request in waiting)
        prompt = int(requests["num_prefill_tokens"][new].sum())
        kv = sum(context[request] for request in decoding)
        seconds = 0.012 + 3e-5 * prompt + 4e-8 * kv + 1e-4 * len(running)
        blocks = (kv + prompt) // BLOCK_SIZE + len(running)
        for stage in range(num_stages):
            start = now + stage * seconds
            chunk = round(float(np.linalg.norm(requests["num_prefill_tokens"][new])))
            when = (number, now, start, seconds, 1)
            what = (len(running), prompt + len(decoding), prompt, len(decoding), kv, 0, chunk)
            rows.append((replica, stage, *when, *what, blocks, queued, len(running)))
            members.append(list(running))
            replicas[f"busy_time_stage{stage}"][replica] += seconds
        replicas["attention_token_pairs"][replica] += kv + prompt * prompt / 2
        number += 1
        requests["scheduled_at"][new] = now
        requests["execution_time"][running] += seconds * num_stages
        now += seconds * num_stages
        _advance(requests, new, decoding, context, now)
        running = [request for request in running if requests["status"][request] != FINISHED]
    replicas["num_requests"][replica] = (requests["replica"] == replica).sum()


def _advance(requests: Columns, new: list[int], decoding: list[int], context: dict[int, int], now: float) -> None:
    requests["prefill_completed_at"][new] = now
    for request in new:
        context[request] = int(requests["num_prefill_tokens"][request])
    for request in (*new, *decoding):
        context[request] += 1
        if context[request] == requests["num_prefill_tokens"][request] + requests["num_decode_tokens"][request]:
            requests["completed_at"][request] = now
            requests["status"][request] = FINISHED


def simple_tables(max_tokens: int = 65_536, max_batch: int = 64, max_kv: int = 8192) -> ExecutionTimeTables:
    """Times that grow linearly, for any batch of the recordings above."""
    tokens = np.arange(max_tokens + 1) * 1e-5
    ops = (*LAYER_OPS, POST_NORM_OP)
    linear: dict[str, NDArray[np.float64]] = {op: tokens * (place + 1) for place, op in enumerate(ops)}
    kv = np.arange(max_kv // 64 + 1)
    return ExecutionTimeTables(
        linear=linear,
        attn_prefill=np.add.outer(kv * 1e-3, np.arange(max_tokens // 16 + 1) * 1e-5),
        attn_decode=np.multiply.outer(np.arange(max_batch + 1), kv * 1e-4),
        source="made up for tests",
    )


def result_of(recording: Recording, config: dict[str, Any] | None = None, **metrics: Any) -> SimulationResult:
    """`config`: as `SimulationConfig.from_dict`; `metrics`: its metrics_config."""
    cluster = {"num_replicas": len(recording.replicas["num_blocks"])}
    document = {"cluster_config": cluster, "metrics_config": metrics, **(config or {})}
    parsed = SimulationConfig.from_dict(document)
    tables = simple_tables()
    hardware = tuple(
        HardwarePlan(tables, group.replica_config.layers_per_stage) for group in parsed.cluster_config.groups
    )
    return SimulationResult(parsed, recording, hardware, "made up for tests", wall_seconds=0.5)
