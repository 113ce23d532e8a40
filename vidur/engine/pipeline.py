"""A replica of several pipeline stages: as many batches in flight as stages, one batch in a stage at a time.

At one instant, stages that end go first, in the order they began; then what follows from them, first in, first out:
upstream's order of (time, creation number).
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.iteration import batch_time, end_batch, measure_batch
from vidur.engine.layout import (
    ADMITTED,
    BATCH_ID,
    ENDED_AT,
    HARDWARE,
    IN_FLIGHT,
    IN_USE,
    ITERATIONS,
    NEXT_BATCH,
    SCHEDULE_AT,
    SEQUENCE,
    SLOWDOWN,
    STAGES,
    TOKEN_TABLE,
    TOKENS,
    WAITING,
)
from vidur.engine.rows import record_row
from vidur.scheduler.replica_scheduler.policy import form_batch_callback

form_batch = form_batch_callback.call

# Columns of batch_times: when the batch was formed, began its first stage, ended its last one; seconds in stages and
# between them.
_SCHEDULED_AT, _BEGAN, _LAST_END, _EXECUTION, _GAPS = range(5)
BATCH_TIMES = 5

_STAGE_ARRIVAL, _STAGE_SCHEDULE, _BATCH_END, _REPLICA_SCHEDULE = range(4)


@kernel
def stage_that_ends(replica: int, stages: int, now: float, stage_ends: Floats, stage_state: Ints) -> int:
    """The stage that ends at `now` and began first, or -1."""
    found = -1
    for stage in range(stages):
        if stage_ends[replica, stage, 0] == now and (
            found < 0 or stage_state[replica, stage, 1] < stage_state[replica, found, 1]
        ):
            found = stage
    return found


@kernel
def free_slot(replica: int, stages: int, batches: Ints) -> int:
    for slot in range(stages):
        if batches[replica, slot, IN_USE] == 0:
            return slot
    return -1


@kernel
def reset_pipeline(replica: int, stages: int, stage_ends: Floats, stage_state: Ints, batches: Ints) -> None:
    """Forget every batch in flight."""
    for stage in range(stages):
        stage_ends[replica, stage, 0] = np.inf
        stage_state[replica, stage, 0] = -1
        stage_state[replica, stage, 2] = 0
        batches[replica, stage, IN_USE] = 0


@kernel
def step_pipeline(
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
    send_times: Floats,
    stage_ends: Floats,
    stage_state: Ints,
    followers: Ints,
    batch_times: Floats,
) -> bool:
    """Do all that happens on the replica at its next time. False: a lookup beyond the tables.

    stage_ends[replica, stage]: (when the batch in service ends or inf, its seconds, its start).
    followers: room for what follows within one instant.
    stage_state[replica, stage]: (slot in service or -1, its number, queue length, queued slots ...).
    """
    now = next_time[replica]
    stages = replicas[replica, STAGES]
    head = 0
    tail = 0
    ending = stage_that_ends(replica, stages, now, stage_ends, stage_state)
    while ending >= 0:
        slot = stage_state[replica, ending, 0]
        seconds = stage_ends[replica, ending, 1]
        busy[replica, ending] += seconds
        cluster_floats[ENDED_AT] = max(cluster_floats[ENDED_AT], now)
        batch_times[replica, slot, _EXECUTION] += seconds
        batch_times[replica, slot, _LAST_END] = now
        record_row(
            replica, ending, slot, batches[replica, slot, BATCH_ID], batch_times[replica, slot, _SCHEDULED_AT],
            stage_ends[replica, ending, 2], seconds, 1, batch_requests, batch_tokens, batches,
            cluster, row_floats, row_ints, member_offsets, members,
        )  # fmt: skip
        stage_ends[replica, ending, 0] = np.inf
        stage_state[replica, ending, 0] = -1
        followers[tail, 0] = _STAGE_SCHEDULE
        followers[tail, 1] = ending
        followers[tail + 1, 0] = _BATCH_END if ending == stages - 1 else _STAGE_ARRIVAL
        followers[tail + 1, 1] = slot if ending == stages - 1 else (ending + 1) * stages + slot
        tail += 2
        ending = stage_that_ends(replica, stages, now, stage_ends, stage_state)
    if replica_floats[replica, SCHEDULE_AT] == now:
        replica_floats[replica, SCHEDULE_AT] = np.inf
        followers[tail, 0] = _REPLICA_SCHEDULE
        tail += 1

    while head < tail:
        kind = followers[head, 0]
        what = followers[head, 1]
        head += 1
        if kind == _STAGE_ARRIVAL:
            stage = what // stages
            stage_state[replica, stage, 3 + stage_state[replica, stage, 2]] = what % stages
            stage_state[replica, stage, 2] += 1
            followers[tail, 0] = _STAGE_SCHEDULE
            followers[tail, 1] = stage
            tail += 1
        elif kind == _STAGE_SCHEDULE:
            stage = what
            if stage_state[replica, stage, 0] >= 0 or stage_state[replica, stage, 2] == 0:
                continue
            slot = stage_state[replica, stage, 3]
            stage_state[replica, stage, 2] -= 1
            for index in range(stage_state[replica, stage, 2]):
                stage_state[replica, stage, 3 + index] = stage_state[replica, stage, 4 + index]
            seconds = batch_time(
                replica, slot, batches, replicas, groups, prefill_overhead, token_times, decode_times, prefill_times,
                cpu_times, cluster,
            )  # fmt: skip
            if seconds < 0.0:
                return False
            if stage < stages - 1:
                seconds += send_times[groups[replicas[replica, HARDWARE], TOKEN_TABLE] + batches[replica, slot, TOKENS]]
            seconds *= replica_floats[replica, SLOWDOWN]
            if stage == 0:
                batch_times[replica, slot, _BEGAN] = now
            else:
                batch_times[replica, slot, _GAPS] += now - batch_times[replica, slot, _LAST_END]
            cluster[SEQUENCE] += 1
            stage_state[replica, stage, 0] = slot
            stage_state[replica, stage, 1] = cluster[SEQUENCE]
            stage_ends[replica, stage, 0] = now + seconds
            stage_ends[replica, stage, 1] = seconds
            stage_ends[replica, stage, 2] = now
        elif kind == _BATCH_END:
            end_batch(
                replica, what, 1, batch_times[replica, what, _BEGAN], now, batch_times[replica, what, _EXECUTION],
                batch_times[replica, what, _GAPS], times, requests, replicas, ready, batch_requests, batch_tokens,
                batches,
                ledger, completions, cluster,
            )  # fmt: skip
            batches[replica, what, IN_USE] = 0
            replicas[replica, IN_FLIGHT] -= 1
            followers[tail, 0] = _REPLICA_SCHEDULE
            tail += 1
        else:
            while replicas[replica, IN_FLIGHT] < stages:
                slot = free_slot(replica, stages, batches)
                size, _ = form_batch(
                    policy, replica, now, slot, times, requests, replicas, ready, batch_requests, batch_tokens
                )
                if size == 0 and replicas[replica, WAITING] > 0 and replicas[replica, ADMITTED] == 0:
                    # As in step_replica: the last request preempted itself.
                    size, _ = form_batch(
                        policy, replica, now, slot, times, requests, replicas, ready, batch_requests, batch_tokens
                    )
                if size == 0:
                    break
                measure_batch(
                    replica, now, slot, size, times, requests, replicas, replica_floats, batch_requests, batch_tokens,
                    batches, groups,
                )  # fmt: skip
                batches[replica, slot, IN_USE] = 1
                batches[replica, slot, BATCH_ID] = cluster[NEXT_BATCH]
                cluster[NEXT_BATCH] += 1
                batch_times[replica, slot, _SCHEDULED_AT] = now
                batch_times[replica, slot, _EXECUTION] = 0.0
                batch_times[replica, slot, _GAPS] = 0.0
                replicas[replica, IN_FLIGHT] += 1
                replicas[replica, ITERATIONS] += 1
                followers[tail, 0] = _STAGE_ARRIVAL
                followers[tail, 1] = slot
                tail += 1
    earliest = replica_floats[replica, SCHEDULE_AT]
    for stage in range(stages):
        earliest = min(earliest, stage_ends[replica, stage, 0])
    next_time[replica] = earliest
    return not math.isnan(earliest)
