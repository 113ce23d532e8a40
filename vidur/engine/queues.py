"""The linked lists of a replica's requests, and the KV-cache blocks that requests hold."""

from __future__ import annotations

from vidur.engine.callback import hook_callback
from vidur.engine.compile import kernel
from vidur.engine.state import State

run_hook = hook_callback.call

FCFS, PRIORITY = range(2)
"""Orders of a waiting queue: by entry into the queue; by priority (lower first), then by arrival of the request."""


@kernel
def goes_before(s: State, request: int, other: int) -> bool:
    """Whether `request` precedes `other` in priority order."""
    first, second = s.requests[request], s.requests[other]
    if first.priority != second.priority:
        return first.priority < second.priority
    return first.arrived_at < second.arrived_at


@kernel
def insert_waiting(s: State, replica: int, before: int, request: int) -> None:
    """Insert `request` behind `before` in the waiting queue, or in front if `before` is -1."""
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
    """Insert `request` into the waiting queue in the replica's order. Returns whether it is now first."""
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
def leave_waiting(s: State, replica: int, request: int) -> None:
    """Move the head of the waiting queue, `request`, to the admitted requests."""
    row = s.replicas[replica]
    row.wait_head = s.requests[request].wait_next
    if row.wait_head < 0:
        row.wait_tail = -1
    row.waiting -= 1
    row.admitted += 1
    row.admissions += 1
    s.requests[request].admission = row.admissions


@kernel
def admit(s: State, replica: int, request: int, blocks: int, keep_free: int) -> bool:
    """Admit the head of the waiting queue, `request`, and allocate `blocks` to it.

    Returns False and changes nothing if fewer than `keep_free` blocks would stay free. A replica without admitted
    requests ignores `keep_free`: nothing would ever be freed, so the request would wait forever.
    """
    row = s.replicas[replica]
    if row.num_blocks - row.allocated - blocks < (keep_free if row.admitted > 0 else 0):
        return False
    leave_waiting(s, replica, request)
    allocate(s, replica, request, blocks)
    return True


@kernel
def release(s: State, replica: int, request: int) -> None:
    """Free an admitted request's blocks and end its admission."""
    if s.replicas[replica].caching == 1:
        run_hook(s.hooks[0].release, (replica, request, 0, s.next_time[replica], s))
    else:
        s.replicas[replica].allocated -= s.requests[request].blocks
        s.requests[request].blocks = 0
    s.replicas[replica].admitted -= 1


@kernel
def preempt(s: State, replica: int, request: int) -> None:
    """Preempt by recomputation: free the request's blocks and return it to the waiting queue (FCFS: to its front).

    Tokens decoded so far become part of its prefill. An unfinished prefill starts again.
    """
    if s.replicas[replica].caching == 1:
        run_hook(s.hooks[0].preempted, (replica, request, 0, s.next_time[replica], s))
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
    """Append `request` to the outstanding requests of `replica`."""
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
    """Remove `request` from the outstanding requests of `replica`."""
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
    """Append `request` to the requests on `replica` that await a first token."""
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
    """Remove `request` from the requests on `replica` that await a first token."""
    before, after = s.requests[request].await_prev, s.requests[request].await_next
    if before < 0:
        s.replicas[replica].await_head = after
    else:
        s.requests[before].await_next = after
    if after < 0:
        s.replicas[replica].await_tail = before
    else:
        s.requests[after].await_prev = before
