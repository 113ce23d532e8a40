"""Recorded rows, and the members of the first of them."""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    DECODE_KV,
    DECODE_SIZE,
    KV_BLOCKS,
    MEMBER_ROWS,
    MEMBERS,
    NUM_RUNNING,
    NUM_WAITING,
    PREFILL_CHUNK,
    PREFILL_KV,
    PREFILL_TOKENS,
    ROWS,
    SIZE,
    TOKENS,
)


@kernel
def record_row(
    replica: int,
    stage: int,
    slot: int,
    batch_id: int,
    scheduled_at: float,
    start: float,
    seconds: float,
    count: int,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    cluster: Ints,
    row_floats: Floats,
    row_ints: Ints,
    member_offsets: Ints,
    members: Ints,
) -> None:
    """Append a row, if rows are recorded at all, and its members as long as there is room for them."""
    if len(row_ints) == 0:
        return
    row = cluster[ROWS]
    cluster[ROWS] += 1
    row_floats[row, 0] = scheduled_at
    row_floats[row, 1] = start
    row_floats[row, 2] = seconds
    row_floats[row, 3] = batch_id
    row_ints[row, 0] = replica
    row_ints[row, 1] = stage
    row_ints[row, 2] = count
    row_ints[row, 3] = batches[replica, slot, SIZE]
    row_ints[row, 4] = batches[replica, slot, TOKENS]
    row_ints[row, 5] = batches[replica, slot, PREFILL_TOKENS]
    row_ints[row, 6] = batches[replica, slot, DECODE_SIZE]
    row_ints[row, 7] = batches[replica, slot, DECODE_KV]
    row_ints[row, 8] = batches[replica, slot, PREFILL_KV]
    row_ints[row, 9] = batches[replica, slot, PREFILL_CHUNK]
    row_ints[row, 10] = batches[replica, slot, KV_BLOCKS]
    row_ints[row, 11] = batches[replica, slot, NUM_WAITING]
    row_ints[row, 12] = batches[replica, slot, NUM_RUNNING]
    size = batches[replica, slot, SIZE]
    at = cluster[MEMBERS]
    if cluster[MEMBER_ROWS] == row and row + 1 < len(member_offsets) and at + size <= len(members):
        for index in range(size):
            members[at + index, 0] = batch_requests[replica, slot, index]
            members[at + index, 1] = batch_tokens[replica, slot, index]
        cluster[MEMBERS] = at + size
        cluster[MEMBER_ROWS] = row + 1
        member_offsets[row + 1] = at + size
