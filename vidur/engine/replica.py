"""A replica with one pipeline stage: one batch at a time, and a run of equal iterations in one step.

While all requests of a batch decode and nothing can change the batch, its iterations differ only in KV length, and
decode attention's time changes only when the mean KV length passes a multiple of the granularity. Such a run is one
step: it starts at run_start, and its iteration j ends at run_start + j * run_time. A request that arrives during a run
cuts it at the end of the current iteration.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.compile import kernel
from vidur.engine.iteration import batch_time, end_batch, measure_batch, record_row
from vidur.engine.plug import form_batch_callback
from vidur.engine.state import State

form_batch = form_batch_callback.call


@kernel
def run_length(s: State, replica: int, repeats: int, shortest: int) -> int:
    """Return how many iterations the batch runs before its time or its members can change."""
    row, batch = s.replicas[replica], s.batches[replica, 0]
    if repeats <= 1 or batch.prefill_size > 0:
        return 1
    step = s.tables.hardware[row.hardware].kv_step
    mean = batch.decode_kv // batch.decode_size
    count = min(repeats, shortest, (mean + step - 1) // step * step - mean + 1)
    if row.grows == 0:
        return count
    # The batcher needs one free block at every check; each request takes one block per block_size tokens.
    spare = (row.num_blocks - row.allocated - 1) // batch.num_requests - 1
    if spare <= 0:
        return 1
    return min(count, spare * row.block_size)


@kernel
def iterations_before(until: float, start: float, seconds: float, count: int) -> int:
    """Return how many of `count` iterations of `seconds` each, starting at `start`, end before `until`."""
    if start + count * seconds < until:
        return count
    done = int((until - start) / seconds)
    while done > 0 and start + done * seconds >= until:
        done -= 1
    while start + (done + 1) * seconds < until:
        done += 1
    return done


@kernel
def ended_iterations(s: State, replica: int, until: float) -> int:
    """Return how many iterations of the current run end before `until`."""
    row = s.replicas[replica]
    return iterations_before(until, row.run_start, row.run_time, row.run_count)


@kernel
def cut_run(s: State, replica: int, now: float) -> None:
    """Shorten a busy replica's run to end with the iteration in progress at `now`."""
    row = s.replicas[replica]
    cut = ended_iterations(s, replica, now) + 1
    if cut < row.run_count:
        row.run_count = cut
        s.next_time[replica] = row.run_start + cut * row.run_time


@kernel
def finish_run(s: State, replica: int, count: int) -> None:
    """Apply `count` iterations of the batch in flight and record them."""
    row, batch, clock = s.replicas[replica], s.batches[replica, 0], s.clock[0]
    start, seconds = row.run_start, row.run_time
    end = start + count * seconds
    if count > 1:
        # The first iteration was counted when the batch was formed.
        more = count - 1
        row.attention_pairs += more * (batch.decode_size + batch.decode_kv) + batch.decode_size * (
            more * (more + 1) // 2
        )
    s.stages[replica, 0].busy_time += count * seconds
    number = clock.next_batch
    clock.next_batch += count
    record_row(s, replica, 0, 0, number, start, start, seconds, count)
    batch.began_at = start
    batch.execution_time = count * seconds
    batch.gaps = 0.0
    end_batch(s, replica, 0, count, end)
    row.iterations += count - 1
    row.in_flight = 0
    clock.ended_at = max(clock.ended_at, end)


@kernel
def step_replica(s: State, replica: int, batcher: int) -> bool:
    """End the replica's run, if any, and start the next. Returns False on a lookup beyond the tables."""
    now, row = s.next_time[replica], s.replicas[replica]
    if row.in_flight > 0:
        finish_run(s, replica, row.run_count)
    size, repeats = form_batch(batcher, (replica, now, 0, s))
    if size == 0 and row.waiting > 0 and row.admitted == 0:
        # The last request preempted itself. Nothing else would wake the replica, so form a batch again.
        size, repeats = form_batch(batcher, (replica, now, 0, s))
    if size == 0:
        s.next_time[replica] = np.inf
        return True
    shortest = measure_batch(s, replica, now, 0, size)
    seconds = batch_time(s, replica, 0)
    if seconds < 0.0:
        return False
    seconds *= row.slowdown
    count = run_length(s, replica, repeats, shortest)
    row.in_flight = 1
    row.iterations += 1
    row.run_count = count
    row.run_start = now
    row.run_time = seconds
    s.next_time[replica] = now + count * seconds
    return math.isfinite(seconds)
