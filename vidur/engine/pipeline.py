"""A replica with several pipeline stages: at most one batch per stage, and as many in flight as stages.

Within an instant, stages end first, in the order they began; their consequences (followers) come next, first in, first
out. This is upstream's order of (time, creation number).
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.iteration import (
    advance_decodes,
    batch_time,
    end_batch,
    measure_batch,
    record_row,
    repeat_decodes,
)
from vidur.engine.plug import form_batch_callback
from vidur.engine.state import State

form_batch = form_batch_callback.call

# The kinds of followers. Subject: stage * stages + slot, a stage, a slot, unused.
STAGE_ARRIVAL, STAGE_SCHEDULE, BATCH_END, REPLICA_SCHEDULE = range(4)


@kernel
def stage_that_ends(s: State, replica: int, now: float) -> int:
    """Return the stage that ends at `now` and began first, or -1."""
    first = -1
    for stage in range(s.replicas[replica].stages):
        row = s.stages[replica, stage]
        if row.ends_at == now and (first < 0 or row.sequence < s.stages[replica, first].sequence):
            first = stage
    return first


@kernel
def free_slot(s: State, replica: int) -> int:
    for slot in range(s.replicas[replica].stages):
        if s.batches[replica, slot].in_use == 0:
            return slot
    return -1


@kernel
def reset_pipeline(s: State, replica: int) -> None:
    """Drop every batch in flight."""
    for stage in range(s.replicas[replica].stages):
        row = s.stages[replica, stage]
        row.ends_at = np.inf
        row.slot = -1
        row.queued = 0
        s.batches[replica, stage].in_use = 0


@kernel
def follow(s: State, tail: int, kind: int, subject: int) -> int:
    """Append a follower behind `tail` entries. Returns their new number."""
    s.followers[tail].kind = kind
    s.followers[tail].subject = subject
    return tail + 1


@kernel
def end_stages(s: State, replica: int, now: float) -> int:
    """End the stages that are due now. Returns the number of followers."""
    tail, last = 0, s.replicas[replica].stages - 1
    stage = stage_that_ends(s, replica, now)
    while stage >= 0:
        row = s.stages[replica, stage]
        slot, seconds = row.slot, row.seconds
        batch = s.batches[replica, slot]
        row.busy_time += seconds
        s.clock[0].ended_at = max(s.clock[0].ended_at, now)
        batch.execution_time += seconds
        batch.last_ended_at = now
        record_row(s, replica, stage, slot, batch.number, batch.scheduled_at, row.began_at, seconds, 1)
        row.ends_at = np.inf
        row.slot = -1
        tail = follow(s, tail, STAGE_SCHEDULE, stage)
        if stage == last:
            tail = follow(s, tail, BATCH_END, slot)
        else:
            tail = follow(s, tail, STAGE_ARRIVAL, (stage + 1) * (last + 1) + slot)
        stage = stage_that_ends(s, replica, now)
    return tail


@kernel
def begin_stage(s: State, replica: int, stage: int, now: float) -> bool:
    """Start the next batch in a stage's queue if the stage is free. Returns False on a lookup beyond the tables."""
    replica_row, row = s.replicas[replica], s.stages[replica, stage]
    if row.slot >= 0 or row.queued == 0:
        return True
    slot = s.stage_queue[replica, stage, 0]
    row.queued -= 1
    for i in range(row.queued):
        s.stage_queue[replica, stage, i] = s.stage_queue[replica, stage, i + 1]
    seconds = batch_time(s, replica, slot)
    if seconds < 0.0:
        return False
    batch = s.batches[replica, slot]
    if stage < replica_row.stages - 1:
        seconds += s.tables.seconds[s.tables.hardware[replica_row.hardware].send_table + batch.tokens]
    seconds *= replica_row.slowdown
    if stage == 0:
        batch.began_at = now
    else:
        batch.gaps += now - batch.last_ended_at
    s.clock[0].sequence += 1
    row.slot = slot
    row.sequence = s.clock[0].sequence
    row.ends_at = now + seconds
    row.seconds = seconds
    row.began_at = now
    return True


@kernel
def can_repeat(s: State, replica: int, slot: int) -> bool:
    """Whether the batcher would form the same batch again after one more iteration."""
    row, batch = s.replicas[replica], s.batches[replica, slot]
    return (
        batch.prefill_size == 0
        and batch.repeats > 1
        and batch.shortest > 1
        and row.waiting == 0
        and row.ready == 0
        and row.num_blocks - row.allocated >= batch.num_requests
    )


@kernel
def begin_batch(s: State, replica: int, slot: int, now: float, tail: int) -> int:
    """Send a batch to the first stage. Returns the new number of followers."""
    row, batch, clock = s.replicas[replica], s.batches[replica, slot], s.clock[0]
    batch.in_use = 1
    batch.number = clock.next_batch
    clock.next_batch += 1
    batch.scheduled_at = now
    batch.execution_time = 0.0
    batch.gaps = 0.0
    row.in_flight += 1
    row.iterations += 1
    return follow(s, tail, STAGE_ARRIVAL, slot)


@kernel
def return_members(s: State, replica: int, slot: int) -> None:
    """Append the requests of an ended batch to `ready`."""
    row = s.replicas[replica]
    for i in range(s.batches[replica, slot].num_requests):
        s.ready[replica, row.ready + i] = s.members[replica, slot, i].request
    row.ready += s.batches[replica, slot].num_requests
    s.batches[replica, slot].in_use = 0


@kernel
def form_batches(s: State, replica: int, now: float, tail: int, batcher: int) -> int:
    """Form batches while fewer are in flight than there are stages. Returns the new number of followers."""
    row = s.replicas[replica]
    while row.in_flight < row.stages:
        slot = free_slot(s, replica)
        size, repeats = form_batch(batcher, (replica, now, slot, s))
        if size == 0 and row.waiting > 0 and row.admitted == 0:
            # As in step_replica: the last request preempted itself.
            size, repeats = form_batch(batcher, (replica, now, slot, s))
        if size == 0:
            break
        batch = s.batches[replica, slot]
        batch.shortest = measure_batch(s, replica, now, slot, size)
        batch.repeats = repeats
        tail = begin_batch(s, replica, slot, now, tail)
    return tail


@cold_kernel
def step_pipeline(s: State, replica: int, batcher: int) -> bool:
    """Do everything that happens on the replica at its next time. Returns False on a lookup beyond the tables."""
    now, row = s.next_time[replica], s.replicas[replica]
    stages = row.stages
    head, tail = 0, end_stages(s, replica, now)
    # The slot of a batch of decodes that just ended and may run again unchanged.
    repeating = -1
    if row.schedule_at == now:
        row.schedule_at = np.inf
        tail = follow(s, tail, REPLICA_SCHEDULE, 0)
    while head < tail:
        kind, subject = s.followers[head].kind, s.followers[head].subject
        head += 1
        if kind == STAGE_ARRIVAL:
            stage = subject // stages
            s.stage_queue[replica, stage, s.stages[replica, stage].queued] = subject % stages
            s.stages[replica, stage].queued += 1
            tail = follow(s, tail, STAGE_SCHEDULE, stage)
        elif kind == STAGE_SCHEDULE:
            if not begin_stage(s, replica, subject, now):
                return False
        elif kind == BATCH_END:
            if can_repeat(s, replica, subject):
                advance_decodes(s, replica, subject, now)
                repeating = subject
            else:
                end_batch(s, replica, subject, 1, now)
                s.batches[replica, subject].in_use = 0
            row.in_flight -= 1
            tail = follow(s, tail, REPLICA_SCHEDULE, 0)
        else:
            if repeating >= 0 and row.waiting == 0 and row.in_flight == stages - 1:
                repeat_decodes(s, replica, repeating)
                tail = begin_batch(s, replica, repeating, now, tail)
            else:
                if repeating >= 0:
                    return_members(s, replica, repeating)
                tail = form_batches(s, replica, now, tail, batcher)
            repeating = -1
    next_time = row.schedule_at
    for stage in range(stages):
        next_time = min(next_time, s.stages[replica, stage].ends_at)
    s.next_time[replica] = next_time
    return not math.isnan(next_time)
