"""vLLM's v1 scheduler: one token budget for all; running requests first, then waiting ones; chunked prefill.

Source of the behaviour: vllm-project/vllm, vllm/v1/core/sched/scheduler.py (FCFS, no prefix cache, no speculation).
With several pipeline stages the victims of preemption are the latest requests that are not in flight. A request that
lacks blocks only because of those in flight waits for them: if it gave up what it has, two could do so forever.
"""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ADMISSIONS,
    ADMITTED,
    ALLOCATED,
    BLOCK_SIZE,
    BLOCKS,
    GROUP,
    IN_FLIGHT,
    MAX_ADMITTED,
    NUM_BLOCKS,
    PREFILL,
    PREFILL_THRESHOLD,
    PREFILLED,
    PROCESSED,
    READY,
    STAGES,
    TOKEN_LIMIT,
    WAIT_HEAD,
    WAITING,
)
from vidur.engine.queues import allocate, pop_waiting, preempt
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy


@kernel
def sort_by_admission(requests: Ints, ready: Ints, replica: int, count: int) -> None:
    for index in range(1, count):
        request = ready[replica, index]
        at = index
        while at > 0 and requests[ready[replica, at - 1], GROUP] > requests[request, GROUP]:
            ready[replica, at] = ready[replica, at - 1]
            at -= 1
        ready[replica, at] = request


@kernel
def next_tokens(requests: Ints, replicas: Ints, replica: int, request: int, budget: int) -> int:
    """How many tokens the request gets of what is left of the budget."""
    if requests[request, PREFILLED]:
        return min(1, budget)
    tokens = requests[request, PREFILL] - requests[request, PROCESSED]
    threshold = replicas[replica, PREFILL_THRESHOLD]
    if 0 < threshold < tokens:
        tokens = threshold
    return min(tokens, budget)  # type: ignore[no-any-return]


@kernel
def missing_blocks(requests: Ints, replicas: Ints, replica: int, request: int, tokens: int) -> int:
    """Blocks that the request lacks to hold its next `tokens`."""
    # PROCESSED counts the token that a request in decode feeds in next.
    length = requests[request, PROCESSED] + (0 if requests[request, PREFILLED] else tokens)
    needed = -(-length // replicas[replica, BLOCK_SIZE])
    return max(0, needed - requests[request, BLOCKS])  # type: ignore[no-any-return]


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
    if replicas[replica, STAGES] > 1:
        sort_by_admission(requests, ready, replica, count)
    budget = replicas[replica, TOKEN_LIMIT]
    repeats = FOREVER
    preempted = False
    size = 0
    at = 0
    while at < count and budget > 0:
        request = ready[replica, at]
        tokens = next_tokens(requests, replicas, replica, request, budget)
        blocks = missing_blocks(requests, replicas, replica, request, tokens)
        # Itself last, and only if nothing in flight will free blocks.
        keep = at + 1 if replicas[replica, IN_FLIGHT] > 0 else at
        while blocks > replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED] and count > keep:
            count -= 1
            preempt(requests, replicas, replica, ready[replica, count])
            preempted = True
        if count == at or blocks > replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED]:
            break
        allocate(requests, replicas, replica, request, blocks)
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = tokens
        if not requests[request, PREFILLED]:
            repeats = 1
        budget -= tokens
        size += 1
        at += 1
    left = count - at
    for index in range(left):
        ready[replica, index] = ready[replica, at + index]
    replicas[replica, READY] = left
    if left > 0 or preempted:
        repeats = 1

    while not preempted and replicas[replica, WAITING] > 0 and budget > 0:
        if replicas[replica, ADMITTED] == replicas[replica, MAX_ADMITTED]:
            break
        request = replicas[replica, WAIT_HEAD]
        tokens = next_tokens(requests, replicas, replica, request, budget)
        blocks = missing_blocks(requests, replicas, replica, request, tokens)
        if blocks > replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED]:
            break
        pop_waiting(requests, replicas, replica)
        replicas[replica, ADMITTED] += 1
        replicas[replica, ADMISSIONS] += 1
        requests[request, GROUP] = replicas[replica, ADMISSIONS]
        allocate(requests, replicas, replica, request, blocks)
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = tokens
        budget -= tokens
        size += 1
        repeats = 1
    return size, repeats


POLICIES.register("vllm_v1")(Policy(form_batch, grows=True, chunked=True))
