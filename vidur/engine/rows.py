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
    batch = batches[replica, slot]
    floats = row_floats[row]
    floats[0] = scheduled_at
    floats[1] = start
    floats[2] = seconds
    floats[3] = batch_id
    ints = row_ints[row]
    ints[0] = replica
    ints[1] = stage
    ints[2] = count
    ints[3] = batch[SIZE]
    ints[4] = batch[TOKENS]
    ints[5] = batch[PREFILL_TOKENS]
    ints[6] = batch[DECODE_SIZE]
    ints[7] = batch[DECODE_KV]
    ints[8] = batch[PREFILL_KV]
    ints[9] = batch[PREFILL_CHUNK]
    ints[10] = batch[KV_BLOCKS]
    ints[11] = batch[NUM_WAITING]
    ints[12] = batch[NUM_RUNNING]
    size = batch[SIZE]
    at = cluster[MEMBERS]
    if cluster[MEMBER_ROWS] == row and row + 1 < len(member_offsets) and at + size <= len(members):
        for index in range(size):
            members[at + index, 0] = batch_requests[replica, slot, index]
            members[at + index, 1] = batch_tokens[replica, slot, index]
        cluster[MEMBERS] = at + size
        cluster[MEMBER_ROWS] = row + 1
        member_offsets[row + 1] = at + size
