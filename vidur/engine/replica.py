"""A replica of one pipeline stage: one batch at a time, and runs of equal iterations in one step.

While every request of a batch is in decode and nothing can change the batch, its iterations differ only in their KV
lengths, and the time of decode attention changes only when the mean KV length passes a multiple of the granularity.
Such a run of iterations is one step: it starts at RUN_START, and its iteration j ends at RUN_START + j * RUN_TIME. A
request that arrives in mid-run cuts the run at the first end of an iteration not before the arrival.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.iteration import batch_time, end_batch, measure_batch
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    ATTENTION_PAIRS,
    BLOCK_SIZE,
    DECODE_KV,
    DECODE_SIZE,
    ENDED_AT,
    GROWS,
    HARDWARE,
    IN_FLIGHT,
    ITERATIONS,
    KV_STEP,
    NEXT_BATCH,
    NUM_BLOCKS,
    PREFILL_SIZE,
    RUN_COUNT,
    RUN_START,
    RUN_TIME,
    SIZE,
    SLOWDOWN,
    WAITING,
)
from vidur.engine.rows import record_row
from vidur.scheduler.replica_scheduler.policy import form_batch_callback

form_batch = form_batch_callback.call


@kernel
def run_length(replica: int, repeats: int, shortest: int, batches: Ints, replicas: Ints, groups: Ints) -> int:
    """How many iterations the batch runs with one iteration time before anything can change."""
    if repeats <= 1 or batches[replica, 0, PREFILL_SIZE] > 0:
        return 1
    step = groups[replicas[replica, HARDWARE], KV_STEP]
    mean = batches[replica, 0, DECODE_KV] // batches[replica, 0, DECODE_SIZE]
    count = min(repeats, shortest, (mean + step - 1) // step * step - mean + 1)
    if replicas[replica, GROWS] == 0:
        return count  # type: ignore[no-any-return]
    # One block must stay free at every check of the policy; each request takes at most one block per block_size tokens.
    spare = (replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED] - 1) // batches[replica, 0, SIZE] - 1
    if spare <= 0:
        return 1
    return min(count, spare * replicas[replica, BLOCK_SIZE])  # type: ignore[no-any-return]


@kernel
def ended_iterations(start: float, seconds: float, count: int, until: float) -> int:
    """How many of the run's `count` iterations end before `until`."""
    if start + count * seconds < until:
        return count
    done = int((until - start) / seconds)
    while done > 0 and start + done * seconds >= until:
        done -= 1
    while start + (done + 1) * seconds < until:
        done += 1
    return done


@kernel
def cut_run(replica: int, now: float, next_time: Floats, replicas: Ints, replica_floats: Floats) -> None:
    """End the run of a busy replica with the iteration that is under way at `now`."""
    count = replicas[replica, RUN_COUNT]
    start = replica_floats[replica, RUN_START]
    seconds = replica_floats[replica, RUN_TIME]
    cut = ended_iterations(start, seconds, count, now) + 1
    if cut < count:
        replicas[replica, RUN_COUNT] = cut
        next_time[replica] = start + cut * seconds


@kernel
def finish_run(
    replica: int,
    count: int,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    busy: Floats,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
    cluster_floats: Floats,
    row_floats: Floats,
    row_ints: Ints,
    member_offsets: Ints,
    members: Ints,
) -> None:
    """Apply `count` iterations of the batch in flight and record them."""
    start = replica_floats[replica, RUN_START]
    seconds = replica_floats[replica, RUN_TIME]
    end = start + count * seconds
    if count > 1:
        # The first iteration was counted when the batch was formed.
        more = count - 1
        first = batches[replica, 0, DECODE_SIZE] + batches[replica, 0, DECODE_KV]
        replica_floats[replica, ATTENTION_PAIRS] += more * first + batches[replica, 0, DECODE_SIZE] * (
            more * (more + 1) // 2
        )
    busy[replica, 0] += count * seconds
    batch_id = cluster[NEXT_BATCH]
    cluster[NEXT_BATCH] += count
    record_row(
        replica, 0, 0, batch_id, start, start, seconds, count, batch_requests, batch_tokens, batches,
        cluster, row_floats, row_ints, member_offsets, members,
    )  # fmt: skip
    end_batch(
        replica, 0, count, start, end, count * seconds, 0.0, times, requests, replicas, ready, batch_requests,
        batch_tokens, batches,
        ledger, completions, cluster,
    )  # fmt: skip
    replicas[replica, ITERATIONS] += count - 1
    replicas[replica, IN_FLIGHT] = 0
    cluster_floats[ENDED_AT] = max(cluster_floats[ENDED_AT], end)


@kernel
def step_replica(
    replica: int,
    policy: int,
    next_time: Floats,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    busy: Floats,
    groups: Ints,
    prefill_overhead: Floats,
    token_times: Floats,
    decode_times: Floats,
    prefill_times: Floats,
    cpu_times: Floats,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
    cluster_floats: Floats,
    row_floats: Floats,
    row_ints: Ints,
    member_offsets: Ints,
    members: Ints,
) -> bool:
    """End the run of the replica, if there is one, and begin the next. False: a lookup beyond the tables."""
    now = next_time[replica]
    if replicas[replica, IN_FLIGHT] > 0:
        finish_run(
            replica, replicas[replica, RUN_COUNT], times, requests, replicas, replica_floats, ready,
            batch_requests, batch_tokens, batches, busy, ledger, completions, cluster, cluster_floats,
            row_floats, row_ints, member_offsets, members,
        )  # fmt: skip
    size, repeats = form_batch(policy, replica, now, 0, times, requests, replicas, ready, batch_requests, batch_tokens)
    if size == 0 and replicas[replica, WAITING] > 0 and replicas[replica, ADMITTED] == 0:
        # The last request preempted itself. Nothing else will wake the replica, so it is asked again.
        size, repeats = form_batch(
            policy, replica, now, 0, times, requests, replicas, ready, batch_requests, batch_tokens
        )
    if size == 0:
        next_time[replica] = np.inf
        return True
    shortest = measure_batch(
        replica, now, 0, size, times, requests, replicas, replica_floats, batch_requests, batch_tokens, batches, groups
    )
    seconds = batch_time(
        replica,
        0,
        batches,
        replicas,
        groups,
        prefill_overhead,
        token_times,
        decode_times,
        prefill_times,
        cpu_times,
        cluster,
    )
    if seconds < 0.0:
        return False
    seconds *= replica_floats[replica, SLOWDOWN]
    count = run_length(replica, repeats, shortest, batches, replicas, groups)
    replicas[replica, IN_FLIGHT] = 1
    replicas[replica, ITERATIONS] += 1
    replicas[replica, RUN_COUNT] = count
    replica_floats[replica, RUN_START] = now
    replica_floats[replica, RUN_TIME] = seconds
    next_time[replica] = now + count * seconds
    return math.isfinite(seconds)
