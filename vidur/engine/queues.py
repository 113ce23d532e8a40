"""The lists of a replica's requests, and the KV-cache blocks that they hold."""

from __future__ import annotations

from vidur.engine.compile import kernel
from vidur.engine.state import State

FCFS, PRIORITY = range(2)
"""The orders of a waiting queue: by arrival in the queue; by priority (lower first), then by arrival of the request."""


@kernel
def goes_before(s: State, request: int, other: int) -> bool:
    """Whether `request` comes before `other` in a queue by priority."""
    first, second = s.requests[request], s.requests[other]
    if first.priority != second.priority:
        return first.priority < second.priority
    return first.arrived_at < second.arrived_at


@kernel
def insert_waiting(s: State, replica: int, before: int, request: int) -> None:
    """Put `request` behind `before` in the waiting queue, or first where that is -1."""
    row = s.replicas[replica]
    after = row.wait_head if before < 0 else s.requests[before].wait_next
    s.requests[request].wait_next = after
    if before < 0:
        row.wait_head = request
    else:
        s.requests[before].wait_next = request
    if after < 0:
        row.wait_tail = request
    row.waiting += 1


@kernel
def enqueue(s: State, replica: int, request: int) -> bool:
    """Put `request` where it belongs in the waiting queue. Returns whether it is first there."""
    row = s.replicas[replica]
    before = row.wait_tail
    if row.order == PRIORITY and before >= 0 and goes_before(s, request, before):
        before = -1
        after = row.wait_head
        while not goes_before(s, request, after):
            before = after
            after = s.requests[after].wait_next
    insert_waiting(s, replica, before, request)
    return before < 0


@kernel
def free_blocks(s: State, replica: int) -> int:
    return s.replicas[replica].num_blocks - s.replicas[replica].allocated


@kernel
def allocate(s: State, replica: int, request: int, blocks: int) -> None:
    s.requests[request].blocks += blocks
    s.replicas[replica].allocated += blocks


@kernel
def admit(s: State, replica: int, request: int, blocks: int, keep_free: int) -> bool:
    """Take `request`, the first that waits, into a batch and give it `blocks`: the one way from waiting to running.

    False, and nothing changes, where fewer than `keep_free` blocks would stay free. An empty replica keeps none free:
    nothing will ever be freed there, so that waiting would never end.
    """
    row = s.replicas[replica]
    if row.num_blocks - row.allocated - blocks < (keep_free if row.admitted > 0 else 0):
        return False
    row.wait_head = s.requests[request].wait_next
    if row.wait_head < 0:
        row.wait_tail = -1
    row.waiting -= 1
    row.admitted += 1
    row.admissions += 1
    s.requests[request].admission = row.admissions
    allocate(s, replica, request, blocks)
    return True


@kernel
def release(s: State, replica: int, request: int) -> None:
    """Free the blocks of an admitted request; it is no longer admitted."""
    s.replicas[replica].allocated -= s.requests[request].blocks
    s.requests[request].blocks = 0
    s.replicas[replica].admitted -= 1


@kernel
def preempt(s: State, replica: int, request: int) -> None:
    """Free an admitted request and put it back into the waiting queue; what it decoded is now part of its prompt.

    In FCFS order it goes to the front. A victim whose prefill was under way starts it again from the beginning.
    """
    release(s, replica, request)
    row = s.requests[request]
    if row.prefilled:
        row.prefill = row.processed
    row.processed = 0
    row.prefilled = 0
    row.restarts += 1
    s.replicas[replica].preemptions += 1
    if s.replicas[replica].order == FCFS:
        insert_waiting(s, replica, -1, request)
    else:
        enqueue(s, replica, request)


@kernel
def push_ledger(s: State, replica: int, request: int) -> None:
    """Append `request` to the requests placed on `replica` that have not ended."""
    row = s.replicas[replica]
    tail = row.ledger_tail
    s.requests[request].ledger_prev = tail
    s.requests[request].ledger_next = -1
    if tail < 0:
        row.ledger_head = request
    else:
        s.requests[tail].ledger_next = request
    row.ledger_tail = request


@kernel
def drop_ledger(s: State, replica: int, request: int) -> None:
    """Take `request` out of the requests placed on `replica` that have not ended."""
    before, after = s.requests[request].ledger_prev, s.requests[request].ledger_next
    if before < 0:
        s.replicas[replica].ledger_head = after
    else:
        s.requests[before].ledger_next = after
    if after < 0:
        s.replicas[replica].ledger_tail = before
    else:
        s.requests[after].ledger_prev = before


@kernel
def push_awaiting(s: State, replica: int, request: int) -> None:
    """Append `request` to the requests placed on `replica` that have no first token."""
    row = s.replicas[replica]
    tail = row.await_tail
    s.requests[request].await_prev = tail
    s.requests[request].await_next = -1
    if tail < 0:
        row.await_head = request
    else:
        s.requests[tail].await_next = request
    row.await_tail = request


@kernel
def drop_awaiting(s: State, replica: int, request: int) -> None:
    """Take `request` out of the requests placed on `replica` that have no first token."""
    before, after = s.requests[request].await_prev, s.requests[request].await_next
    if before < 0:
        s.replicas[replica].await_head = after
    else:
        s.requests[before].await_next = after
    if after < 0:
        s.replicas[replica].await_tail = before
    else:
        s.requests[after].await_prev = before
