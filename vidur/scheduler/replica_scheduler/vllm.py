"""vLLM before its v1 engine: a batch is either new prompts, whole, or decodes; preemption by recomputation.

Source of the behaviour: microsoft/vidur, vllm_replica_scheduler.py; Kwon et al., 2023 (PagedAttention).
"""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.layout import (
    ADMITTED,
    ARRIVED,
    BLOCK_SIZE,
    MAX_ADMITTED,
    MAX_BATCH,
    PREFILL,
    READY,
    TOKEN_LIMIT,
    WAIT_HEAD,
    WAITING,
)
from vidur.engine.queues import allocate, pop_waiting
from vidur.scheduler.replica_scheduler.admission import can_admit, sort_by_arrival
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy
from vidur.scheduler.replica_scheduler.sarathi import schedule_decodes


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
    size = 0
    longest = 0
    while replicas[replica, WAITING] > 0:
        request = replicas[replica, WAIT_HEAD]
        tokens = requests[request, PREFILL]
        blocks = -(-tokens // replicas[replica, BLOCK_SIZE])
        if not can_admit(replicas, replica, blocks):
            break
        padded = (size + 1) * max(longest, tokens)
        # A request that grew beyond the budget before it was preempted goes alone once the replica is empty.
        if padded > replicas[replica, TOKEN_LIMIT] and replicas[replica, ADMITTED] > 0:
            break
        if replicas[replica, ADMITTED] == replicas[replica, MAX_ADMITTED] or size == replicas[replica, MAX_BATCH]:
            break
        pop_waiting(requests, replicas, replica)
        replicas[replica, ADMITTED] += 1
        allocate(requests, replicas, replica, request, blocks)
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = tokens
        size += 1
        longest = max(longest, tokens)
    if size > 0:
        return size, 1
    sort_by_arrival(ready, replica, replicas[replica, READY], times[:, ARRIVED])
    size, _ = schedule_decodes(replica, slot, requests, replicas, ready, batch_requests, batch_tokens)
    if replicas[replica, READY] > 0:
        return size, 1
    return size, FOREVER


POLICIES.register("vllm")(Policy(form_batch, grows=True, chunked=False))
