"""LightLLM: token-grained KV-cache; prompts join when the peak memory of all requests together will fit.

Source of the behaviour: microsoft/vidur, lightllm_replica_scheduler.py. The peak is computed from the true output
lengths, as there.
"""

from __future__ import annotations

import numpy as np

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import allocating_kernel, kernel
from vidur.engine.layout import (
    ADMITTED,
    ITERATIONS,
    LAST_ATTEMPT,
    MAX_ADMITTED,
    MAX_BATCH,
    MAX_WAITING_ITERS,
    NUM_BLOCKS,
    PREFILL,
    PROCESSED,
    READY,
    TOKEN_LIMIT,
    TOTAL,
    WAIT_HEAD,
    WAITING,
)
from vidur.engine.queues import allocate, pop_waiting
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy
from vidur.scheduler.replica_scheduler.sarathi import schedule_decodes


@kernel
def insert_by_remaining(held: Ints, remaining: Ints, count: int, has_run: int, left: int) -> None:
    """Insert (has_run, left) so that `remaining[:count + 1]` descends; after its equals."""
    at = count
    while at > 0 and remaining[at - 1] < left:
        remaining[at] = remaining[at - 1]
        held[at] = held[at - 1]
        at -= 1
    remaining[at] = left
    held[at] = has_run


@kernel
def peak_tokens(held: Ints, remaining: Ints, count: int) -> int:
    """The most KV-cache tokens that these requests will hold together, as the shorter ones end."""
    peak = 0
    total = 0
    for index in range(count):
        total += held[index]
        peak = max(peak, remaining[index] * (index + 1) + total)
    return peak


@allocating_kernel
def admit_prompts(
    replica: int, slot: int, requests: Ints, replicas: Ints, ready: Ints, batch_requests: Ints, batch_tokens: Ints
) -> int:
    """Fill the batch with waiting prompts. Its size."""
    count = replicas[replica, READY]
    held = np.empty(count + replicas[replica, MAX_BATCH] + 1, dtype=np.int64)
    remaining = np.empty(len(held), dtype=np.int64)
    for index in range(count):
        request = ready[replica, index]
        left = max(0, requests[request, TOTAL] - requests[request, PROCESSED] - 1)
        insert_by_remaining(held, remaining, index, requests[request, PROCESSED], left)
    size = 0
    tokens_in_batch = 0
    while replicas[replica, WAITING] > 0:
        request = replicas[replica, WAIT_HEAD]
        tokens = requests[request, PREFILL]
        if tokens_in_batch + tokens > replicas[replica, TOKEN_LIMIT]:
            break
        if replicas[replica, ADMITTED] == replicas[replica, MAX_ADMITTED] or size == replicas[replica, MAX_BATCH]:
            break
        left = max(0, requests[request, TOTAL] - tokens - 2)
        insert_by_remaining(held, remaining, count, tokens + 1, left)
        count += 1
        if peak_tokens(held, remaining, count) >= replicas[replica, NUM_BLOCKS]:
            break
        pop_waiting(requests, replicas, replica)
        replicas[replica, ADMITTED] += 1
        allocate(requests, replicas, replica, request, tokens)
        batch_requests[replica, slot, size] = request
        batch_tokens[replica, slot, size] = tokens
        tokens_in_batch += tokens
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
    iteration = replicas[replica, ITERATIONS]
    if replicas[replica, READY] == 0:
        size = admit_prompts(replica, slot, requests, replicas, ready, batch_requests, batch_tokens)
        if size > 0:
            replicas[replica, LAST_ATTEMPT] = iteration + 1
        return size, 1
    # Decode iterations since prompts were last tried. Runs of decodes pass over tries that could admit nothing.
    limit = replicas[replica, MAX_WAITING_ITERS]
    waited = iteration - replicas[replica, LAST_ATTEMPT]
    if waited >= limit:
        if limit == 0 or waited % limit == 0:
            replicas[replica, LAST_ATTEMPT] = iteration
            size = admit_prompts(replica, slot, requests, replicas, ready, batch_requests, batch_tokens)
            if size > 0:
                replicas[replica, LAST_ATTEMPT] = iteration + 1
                return size, 1
        else:
            replicas[replica, LAST_ATTEMPT] = iteration - waited % limit
        waited = iteration - replicas[replica, LAST_ATTEMPT]
    size, _ = schedule_decodes(replica, slot, requests, replicas, ready, batch_requests, batch_tokens)
    if replicas[replica, WAITING] > 0:
        return size, max(1, limit - waited)
    return size, FOREVER


POLICIES.register("lightllm")(Policy(form_batch, grows=True, chunked=False))
