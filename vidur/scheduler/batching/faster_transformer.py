"""FasterTransformer: a batch runs unchanged until its last request ends; then its blocks are freed.

Source of the behaviour: microsoft/vidur, faster_transformer_replica_scheduler.py (which never frees the blocks of
requests that end before their batch).
"""

from __future__ import annotations

from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.state import State
from vidur.scheduler.batching.orca import admit_whole_prompts, reserving_limits
from vidur.scheduler.batching.ready import add_member, keep_ready


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row, ready = s.replicas[replica], s.ready
    size = 0
    if row.ready > 0:
        # Continue the batch that ended first: its requests are adjacent in `ready` and share a leader.
        leader = s.requests[ready[replica, 0]].leader
        while size < row.ready and s.requests[ready[replica, size]].leader == leader:
            size = add_member(s, replica, slot, size, ready[replica, size], 1)
        keep_ready(s, replica, 0, size)
        return size, FOREVER
    size = admit_whole_prompts(s, replica, slot, 0)
    for i in range(size):
        s.requests[s.members[replica, slot, i].request].leader = s.members[replica, slot, 0].request
    return size, 1


BATCHERS.register("faster_transformer")(
    Batcher(form_batch, reserving_limits, grows=False, chunked=False, hold_until_batch_ends=True)
)
