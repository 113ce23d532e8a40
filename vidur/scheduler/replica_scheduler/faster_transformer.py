"""FasterTransformer: a batch is formed once and runs until its last request is done; then its blocks are freed.

Source of the behaviour: microsoft/vidur, faster_transformer_replica_scheduler.py (which never frees the blocks of
requests that end before their batch; here they are freed with it).
"""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.layout import GROUP, READY
from vidur.scheduler.replica_scheduler.orca import admit_whole_prompts
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy


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
    count = replicas[replica, READY]
    if count > 0:
        # The batch that ended first: its requests are neighbours in `ready` and share GROUP.
        group = requests[ready[replica, 0], GROUP]
        size = 0
        while size < count and requests[ready[replica, size], GROUP] == group:
            batch_requests[replica, slot, size] = ready[replica, size]
            batch_tokens[replica, slot, size] = 1
            size += 1
        for index in range(size, count):
            ready[replica, index - size] = ready[replica, index]
        replicas[replica, READY] = count - size
        return size, FOREVER
    size = admit_whole_prompts(replica, slot, 0, requests, replicas, batch_requests, batch_tokens)
    for index in range(size):
        requests[batch_requests[replica, slot, index], GROUP] = batch_requests[replica, slot, 0]
    return size, 1


POLICIES.register("faster_transformer")(Policy(form_batch, grows=False, chunked=False, hold_until_batch_ends=True))
