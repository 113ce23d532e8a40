"""Columns of the user's tables: upstream's names and order first, then this project's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import FINISHED, REFUSED, UNFINISHED, Columns, Recording
from vidur.metrics.prefix_cache import replica_cache_columns

STATUS_NAMES = {UNFINISHED: b"unfinished", FINISHED: b"finished", REFUSED: b"refused"}


def first_arrival(recording: Recording) -> float:
    """Return the time of the first arrival; 0 if there are no requests."""
    arrived_at = recording.requests["arrived_at"]
    return float(np.nanmin(arrived_at)) if len(arrived_at) else 0.0


def duration(recording: Recording) -> float:
    """Return seconds from the first arrival to the last event; 0 if nothing arrived before the run ended."""
    anything = len(recording.requests["arrived_at"]) > 0
    return max(0.0, recording.end_time - first_arrival(recording)) if anything else 0.0


def num_batches(recording: Recording, runs: Columns) -> int | None:
    """Return how many batches ran; None if requests ran but neither batches nor their number were recorded."""
    if len(runs["count"]) == 0 and "num_batches" in recording.replicas:
        return int(recording.replicas["num_batches"].sum())
    if len(runs["count"]) == 0 and (recording.requests["execution_time"] > 0).any():
        return None
    return int(runs["count"].sum(dtype=np.int64))


def request_columns(recording: Recording, counted: NDArray[np.bool_] | None = None) -> Columns:
    """Return the columns of request_metrics.csv, a row for each request (docs/output.md).

    Upstream's times are nan for requests that are not `counted` (default: finished).
    """
    requests = recording.requests
    if counted is None:
        counted = requests["status"] == FINISHED
    num_prefill, num_decode = requests["num_prefill_tokens"], requests["num_decode_tokens"]
    arrived_at, scheduled_at = requests["arrived_at"], requests["scheduled_at"]
    first_token_at, completed_at = requests["prefill_completed_at"], requests["completed_at"]

    e2e = np.where(counted, completed_at - arrived_at, np.nan)
    execution = np.where(counted, requests["execution_time"], np.nan)
    model_execution = execution - requests["cpu_time"] if "cpu_time" in requests else execution
    preemption = np.where(counted, requests["preempted_time"], np.nan)
    prefill = np.where(counted, first_token_at - scheduled_at, np.nan)
    return {
        "Request Id": np.arange(len(arrived_at)),
        "request_e2e_time": e2e,
        "request_e2e_time_normalized": e2e / num_decode,
        "request_execution_time": execution,
        "request_execution_time_normalized": execution / num_decode,
        "request_model_execution_time": model_execution,
        "request_model_execution_time_normalized": model_execution / num_decode,
        "request_preemption_time": preemption,
        "request_scheduling_delay": np.where(counted, scheduled_at - arrived_at, np.nan),
        "request_execution_plus_preemption_time": execution + preemption,
        "request_execution_plus_preemption_time_normalized": (execution + preemption) / num_decode,
        "prefill_e2e_time": np.where(counted, first_token_at - arrived_at, np.nan),
        "prefill_time_execution_plus_preemption": prefill,
        "prefill_time_execution_plus_preemption_normalized": prefill / num_prefill,
        "decode_time_execution_plus_preemption_normalized": np.where(counted, completed_at - first_token_at, np.nan)
        / num_decode,
        "request_inter_arrival_delay": _gaps(arrived_at),
        "request_num_tokens": num_prefill + num_decode,
        "request_num_prefill_tokens": num_prefill,
        "request_num_decode_tokens": num_decode,
        "request_pd_ratio": num_prefill / num_decode,
        "request_num_restarts": requests["num_restarts"],
        "replica": requests["replica"],
        "ttft": first_token_at - arrived_at,
        "tpot": time_per_output_token(recording),
        "arrived_at": arrived_at,
        "scheduled_at": scheduled_at,
        "prefill_completed_at": first_token_at,
        "completed_at": completed_at,
        "num_reroutes": requests["num_reroutes"],
        "status": np.array([STATUS_NAMES[status] for status in range(len(STATUS_NAMES))])[requests["status"]],
        **{name: requests[name] for name in ("num_cached_tokens", "num_believed_tokens") if name in requests},
    }


def _gaps(arrived_at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return seconds from the arrival before each arrival, in time, not by request number."""
    order = np.argsort(arrived_at, kind="stable")
    gaps = np.empty(len(arrived_at))
    gaps[order] = np.diff(arrived_at[order], prepend=np.nan)
    return gaps


def time_per_output_token(recording: Recording) -> NDArray[np.float64]:
    """Return seconds per output token after the first; nan for a single token or an unfinished request."""
    requests = recording.requests
    gaps = requests["num_decode_tokens"] - 1.0
    gaps[gaps == 0] = np.nan
    return (requests["completed_at"] - requests["prefill_completed_at"]) / gaps


def batch_columns(runs: Columns, chunk: int | None = None) -> Iterator[Columns]:
    """Yield the columns of batch_metrics.csv, a row for each batch, in parts of about `chunk` rows (None: one part).

    Runs of equal batches are expanded part by part to save memory. At least one part is yielded.
    """
    order = np.argsort(runs["batch_id"], kind="stable")
    ends = np.cumsum(runs["count"][order], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    first = 0
    while True:
        limit = (ends[first - 1] if first else 0) + (chunk or total)
        last = max(int(np.searchsorted(ends, limit, side="right")), first + 1)
        yield _expanded(runs, order[first:last])
        first = last
        if first >= len(order):
            return


def _expanded(runs: Columns, rows: NDArray[np.intp]) -> Columns:
    count = runs["count"][rows]
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    columns = {name: np.repeat(runs[name][rows], count) for name in _BATCH_SOURCES}
    elapsed = within * columns["iteration_time"]
    return {
        "Batch Id": columns["batch_id"] + within,
        "batch_num_tokens": columns["num_tokens"],
        "batch_num_prefill_tokens": columns["num_prefill_tokens"],
        "batch_num_decode_tokens": columns["num_tokens"] - columns["num_prefill_tokens"],
        "batch_size": columns["batch_size"],
        "batch_execution_time": np.where(within == 0, columns["execution_time"], columns["iteration_time"]),
        "replica": columns["replica"],
        "scheduled_at": columns["scheduled_at"] + elapsed,
        "start": columns["start"] + elapsed,
        "kv_blocks": columns["kv_blocks"],
        "num_waiting": columns["num_waiting"],
        "num_running": columns["num_running"],
    }


_BATCH_SOURCES = (
    *("batch_id", "num_tokens", "num_prefill_tokens", "batch_size", "execution_time", "iteration_time"),
    *("replica", "scheduled_at", "start", "kv_blocks", "num_waiting", "num_running"),
)


def replica_columns(recording: Recording, runs: Columns) -> Columns:
    """Return a row for each replica. KV-cache fractions cover the whole duration; nan if no batch was recorded."""
    replicas = recording.replicas
    num_replicas = len(replicas["num_blocks"])
    seconds = duration(recording) or np.nan
    stages = [name for name in replicas if name.startswith("busy_time_stage")]
    seconds_held = runs["held_until"] - runs["start"]
    owner = runs["replica"]
    peak = np.zeros(num_replicas, np.int64)
    np.maximum.at(peak, owner, runs["kv_blocks"])
    batches = np.bincount(owner, runs["count"], num_replicas).astype(np.int64)
    num_blocks = np.where(len(owner) > 0, replicas["num_blocks"], np.nan)
    return {
        "replica": np.arange(num_replicas),
        "group": replicas["group"],
        "num_requests": replicas["num_requests"],
        "num_preemptions": replicas["num_preemptions"],
        "num_blocks": replicas["num_blocks"],
        "num_batches": replicas.get("num_batches", batches),
        "num_tokens": np.bincount(owner, runs["num_tokens"] * runs["count"].astype(np.float64), num_replicas).astype(
            np.int64
        ),
        "attention_token_pairs": replicas["attention_token_pairs"],
        "kv_use_mean": np.bincount(owner, runs["kv_blocks"] * seconds_held, num_replicas) / num_blocks / seconds,
        "kv_use_max": peak / num_blocks,
        **{name: replicas[name] for name in stages},
        **replica_cache_columns(recording),
    }
