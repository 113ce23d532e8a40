"""Orca: whole prompts and decodes side by side in one batch; room for the longest request is reserved at admission.

Source of the behaviour: microsoft/vidur, orca_replica_scheduler.py; Yu et al., 2022 (Orca).
"""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    MAX_BATCH,
    MAX_BLOCKS_PER_REQUEST,
    NUM_BLOCKS,
    PREFILL,
    READY,
    WAITING,
)
from vidur.engine.queues import allocate, pop_waiting
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy


@kernel
def admit_whole_prompts(
    replica: int, slot: int, size: int, requests: Ints, replicas: Ints, batch_requests: Ints, batch_tokens: Ints
) -> int:
    """Fill the batch from the waiting queue with whole prompts, each with the longest's blocks. The new size."""
    blocks = replicas[replica, MAX_BLOCKS_PER_REQUEST]
    while replicas[replica, WAITING] > 0 and size < replicas[replica, MAX_BATCH]:
        if replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED] < blocks:
            break
        request = pop_waiting(requests, replicas, replica)
        replicas[replica, ADMITTED] += 1
        allocate(requests, replicas, replica, request, blocks)
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = requests[request, PREFILL]
        size += 1
    return size


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
    decodes = min(count, replicas[replica, MAX_BATCH])
    for index in range(decodes):
        batch_requests[replica, slot, index] = ready[replica, index]
        batch_tokens[replica, slot, index] = 1
    for index in range(decodes, count):
        ready[replica, index - decodes] = ready[replica, index]
    replicas[replica, READY] = count - decodes
    size = admit_whole_prompts(replica, slot, decodes, requests, replicas, batch_requests, batch_tokens)
    if size > decodes or count > decodes:
        return size, 1
    return size, FOREVER


POLICIES.register("orca")(Policy(form_batch, grows=False, chunked=False))
