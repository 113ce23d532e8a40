"""Operations on `ready`, the admitted requests in no batch, that several batchers share."""

from __future__ import annotations

from vidur.engine.compile import kernel
from vidur.engine.queues import allocate, free_blocks, preempt
from vidur.engine.state import State


@kernel
def add_member(s: State, replica: int, slot: int, size: int, request: int, tokens: int) -> int:
    """Add `request` to a batch of `size`, to process `tokens`. Returns the new size."""
    member = s.members[replica, slot, size]
    member.request = request
    member.tokens = tokens
    return size + 1


@kernel
def keep_ready(s: State, replica: int, kept: int, taken: int) -> None:
    """Remove entries `kept` up to `taken` from `ready`."""
    row = s.replicas[replica]
    for i in range(taken, row.ready):
        s.ready[replica, kept + i - taken] = s.ready[replica, i]
    row.ready = kept + row.ready - taken


@kernel
def sort_by_arrival(s: State, replica: int) -> None:
    """Sort `ready` by arrival with a stable insertion sort, which suits nearly sorted input."""
    ready = s.ready
    for i in range(1, s.replicas[replica].ready):
        request = ready[replica, i]
        hole = i
        while hole > 0 and s.requests[ready[replica, hole - 1]].arrived_at > s.requests[request].arrived_at:
            ready[replica, hole] = ready[replica, hole - 1]
            hole -= 1
        ready[replica, hole] = request


@kernel
def schedule_decodes(s: State, replica: int, slot: int) -> tuple[int, int]:
    """Batch the decodes in `ready`, preempting from its end while blocks are short.

    Remaining requests stay in `ready`, prefills first. Returns (batch size, number of prefills).
    """
    row, ready = s.replicas[replica], s.ready
    count, size, prefills, next_ready = row.ready, 0, 0, 0
    while next_ready < count and size < row.max_batch:
        number = ready[replica, next_ready]
        request = s.requests[number]
        next_ready += 1
        if not request.prefilled:
            # Entries before `next_ready` have been read, so the front can take the prefills.
            ready[replica, prefills] = number
            prefills += 1
            continue
        scheduled = True
        while scheduled and free_blocks(s, replica) < 1:
            if next_ready < count:
                count -= 1
                preempt(s, replica, ready[replica, count])
            else:
                preempt(s, replica, number)
                scheduled = False
        if scheduled:
            if request.processed > request.blocks * row.block_size:
                allocate(s, replica, number, 1)
            size = add_member(s, replica, slot, size, number, 1)
    row.ready = count
    keep_ready(s, replica, prefills, next_ready)
    return size, prefills
