"""The queues of a replica: waiting requests, the ledger of placed requests, KV-cache blocks, preemption."""

from __future__ import annotations

from vidur.engine.arrays import Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    AWAIT_HEAD,
    AWAIT_NEXT,
    AWAIT_PREV,
    AWAIT_TAIL,
    BLOCKS,
    LEDGER_HEAD,
    LEDGER_NEXT,
    LEDGER_PREV,
    LEDGER_TAIL,
    PREEMPTIONS,
    PREFILL,
    PREFILLED,
    PROCESSED,
    RESTARTS,
    WAIT_HEAD,
    WAIT_NEXT,
    WAIT_TAIL,
    WAITING,
)


@kernel
def push_waiting(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Put `request` at the end of the waiting queue."""
    requests[request, WAIT_NEXT] = -1
    tail = replicas[replica, WAIT_TAIL]
    if tail < 0:
        replicas[replica, WAIT_HEAD] = request
    else:
        requests[tail, WAIT_NEXT] = request
    replicas[replica, WAIT_TAIL] = request
    replicas[replica, WAITING] += 1


@kernel
def push_waiting_first(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Put `request` at the front of the waiting queue."""
    head = replicas[replica, WAIT_HEAD]
    requests[request, WAIT_NEXT] = head
    replicas[replica, WAIT_HEAD] = request
    if head < 0:
        replicas[replica, WAIT_TAIL] = request
    replicas[replica, WAITING] += 1


@kernel
def pop_waiting(requests: Ints, replicas: Ints, replica: int) -> int:
    """Take the first request off the waiting queue, which is not empty."""
    request = replicas[replica, WAIT_HEAD]
    after = requests[request, WAIT_NEXT]
    replicas[replica, WAIT_HEAD] = after
    if after < 0:
        replicas[replica, WAIT_TAIL] = -1
    replicas[replica, WAITING] -= 1
    return request  # type: ignore[no-any-return]


@kernel
def push_ledger(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Append `request` to the requests placed on `replica` that have not ended."""
    tail = replicas[replica, LEDGER_TAIL]
    requests[request, LEDGER_PREV] = tail
    requests[request, LEDGER_NEXT] = -1
    if tail < 0:
        replicas[replica, LEDGER_HEAD] = request
    else:
        requests[tail, LEDGER_NEXT] = request
    replicas[replica, LEDGER_TAIL] = request


@kernel
def drop_ledger(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Take `request` out of the requests placed on `replica` that have not ended."""
    before = requests[request, LEDGER_PREV]
    after = requests[request, LEDGER_NEXT]
    if before < 0:
        replicas[replica, LEDGER_HEAD] = after
    else:
        requests[before, LEDGER_NEXT] = after
    if after < 0:
        replicas[replica, LEDGER_TAIL] = before
    else:
        requests[after, LEDGER_PREV] = before


@kernel
def push_awaiting(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Append `request` to the requests placed on `replica` that have no first token."""
    tail = replicas[replica, AWAIT_TAIL]
    requests[request, AWAIT_PREV] = tail
    requests[request, AWAIT_NEXT] = -1
    if tail < 0:
        replicas[replica, AWAIT_HEAD] = request
    else:
        requests[tail, AWAIT_NEXT] = request
    replicas[replica, AWAIT_TAIL] = request


@kernel
def drop_awaiting(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Take `request` out of the requests placed on `replica` that have no first token."""
    before = requests[request, AWAIT_PREV]
    after = requests[request, AWAIT_NEXT]
    if before < 0:
        replicas[replica, AWAIT_HEAD] = after
    else:
        requests[before, AWAIT_NEXT] = after
    if after < 0:
        replicas[replica, AWAIT_TAIL] = before
    else:
        requests[after, AWAIT_PREV] = before


@kernel
def allocate(requests: Ints, replicas: Ints, replica: int, request: int, blocks: int) -> None:
    requests[request, BLOCKS] += blocks
    replicas[replica, ALLOCATED] += blocks


@kernel
def release(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Free the blocks of an admitted request; it is no longer admitted."""
    replicas[replica, ALLOCATED] -= requests[request, BLOCKS]
    requests[request, BLOCKS] = 0
    replicas[replica, ADMITTED] -= 1


@kernel
def preempt(requests: Ints, replicas: Ints, replica: int, request: int) -> None:
    """Free an admitted request and put it first in the waiting queue; what it decoded is now part of its prompt.

    A victim whose prefill was under way starts it again from the beginning.
    """
    release(requests, replicas, replica, request)
    if requests[request, PREFILLED]:
        requests[request, PREFILL] = requests[request, PROCESSED]
    requests[request, PROCESSED] = 0
    requests[request, PREFILLED] = 0
    requests[request, RESTARTS] += 1
    replicas[replica, PREEMPTIONS] += 1
    push_waiting_first(requests, replicas, replica, request)
