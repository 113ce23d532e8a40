"""Sarathi: decodes first, then prefills in chunks, within a token budget per iteration.

Source of the behaviour: microsoft/vidur, sarathi_replica_scheduler.py; Agrawal et al., 2024 (Sarathi-Serve).
"""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    ARRIVED,
    BLOCK_SIZE,
    BLOCKS,
    MAX_ADMITTED,
    MAX_BATCH,
    NUM_BLOCKS,
    PREFILL,
    PREFILLED,
    PROCESSED,
    READY,
    TOKEN_LIMIT,
    WAIT_HEAD,
    WAITING,
)
from vidur.engine.queues import allocate, pop_waiting, preempt
from vidur.scheduler.replica_scheduler.admission import can_admit, sort_by_arrival
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy


@kernel
def schedule_decodes(
    replica: int, slot: int, requests: Ints, replicas: Ints, ready: Ints, batch_requests: Ints, batch_tokens: Ints
) -> tuple[int, int]:
    """Batch the decodes in `ready`, preempting from its end while blocks are short.

    The requests of `ready` left over stay there, with those in prefill first. Returns (batch size, left in prefill).
    """
    count = replicas[replica, READY]
    limit = replicas[replica, MAX_BATCH]
    size = 0
    prefills = 0
    at = 0
    while at < count and size < limit:
        request = ready[replica, at]
        at += 1
        if not requests[request, PREFILLED]:
            # Slots before `at` are free again, so that the prefills can be kept at the front.
            ready[replica, prefills] = request
            prefills += 1
            continue
        scheduled = True
        while replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED] < 1:
            if at < count:
                count -= 1
                preempt(requests, replicas, replica, ready[replica, count])
            else:
                preempt(requests, replicas, replica, request)
                scheduled = False
                break
        if scheduled:
            if requests[request, PROCESSED] > requests[request, BLOCKS] * replicas[replica, BLOCK_SIZE]:
                allocate(requests, replicas, replica, request, 1)
            batch_requests[replica, slot, size] = request
            batch_tokens[replica, slot, size] = 1
            size += 1
    left = prefills
    while at < count:
        ready[replica, left] = ready[replica, at]
        left += 1
        at += 1
    replicas[replica, READY] = left
    return size, prefills


def form_batch(
    replica: int,
    now: float,
    slot: int,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
) -> tuple[int, int]:
    size, prefills = schedule_decodes(replica, slot, requests, replicas, ready, batch_requests, batch_tokens)
    budget = replicas[replica, TOKEN_LIMIT] - size
    repeats = FOREVER
    skipped = 0
    for index in range(prefills):
        request = ready[replica, index]
        tokens = min(requests[request, PREFILL] - requests[request, PROCESSED], budget)
        if tokens <= 0:
            ready[replica, skipped] = request
            skipped += 1
            continue
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = tokens
        budget -= tokens
        size += 1
        repeats = 1
    if skipped < replicas[replica, READY]:
        left = skipped
        for index in range(prefills, replicas[replica, READY]):
            ready[replica, left] = ready[replica, index]
            left += 1
        replicas[replica, READY] = left
    if replicas[replica, READY] > 0:
        sort_by_arrival(ready, replica, replicas[replica, READY], times[:, ARRIVED])
        repeats = 1

    while replicas[replica, WAITING] > 0:
        if replicas[replica, ADMITTED] == replicas[replica, MAX_ADMITTED] or size >= replicas[replica, MAX_BATCH]:
            break
        request = replicas[replica, WAIT_HEAD]
        blocks = -(-requests[request, PREFILL] // replicas[replica, BLOCK_SIZE])
        if not can_admit(replicas, replica, blocks):
            break
        tokens = min(requests[request, PREFILL], budget)
        if tokens <= 0:
            break
        pop_waiting(requests, replicas, replica)
        replicas[replica, ADMITTED] += 1
        allocate(requests, replicas, replica, request, blocks)
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = tokens
        budget -= tokens
        size += 1
        repeats = 1
    return size, repeats


POLICIES.register("sarathi")(Policy(form_batch, grows=True, chunked=True))
