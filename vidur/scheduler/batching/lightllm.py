"""LightLLM: a KV-cache in tokens; a prompt is admitted if the future peak of all requests together fits.

Source of the behaviour: microsoft/vidur, lightllm_replica_scheduler.py. The peak is computed from the true output
lengths, as there.
"""

from __future__ import annotations

import numpy as np

from vidur.config import LightllmSchedulerConfig
from vidur.engine.compile import allocating_kernel, kernel
from vidur.engine.plan import UNLIMITED
from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.queues import admit
from vidur.engine.state import Ints, State
from vidur.memory_planner import MemoryPlan
from vidur.scheduler.batching.ready import add_member, schedule_decodes


@kernel
def insert_by_remaining(cached: Ints, remaining: Ints, count: int, tokens: int, left: int) -> None:
    """Insert (tokens, left) behind its equals, so that `remaining[:count + 1]` descends."""
    hole = count
    while hole > 0 and remaining[hole - 1] < left:
        remaining[hole] = remaining[hole - 1]
        cached[hole] = cached[hole - 1]
        hole -= 1
    remaining[hole] = left
    cached[hole] = tokens


@kernel
def peak_tokens(cached: Ints, remaining: Ints, count: int) -> int:
    """Return the most KV-cache tokens that these requests will ever occupy together."""
    peak = 0
    total = 0
    for i in range(count):
        total += cached[i]
        peak = max(peak, remaining[i] * (i + 1) + total)
    return peak


@allocating_kernel
def admit_prompts(s: State, replica: int, slot: int) -> int:
    """Fill the batch with waiting prompts. Returns its size."""
    row = s.replicas[replica]
    count = row.ready
    cached = np.empty(count + row.max_batch + 1, dtype=np.int64)
    remaining = np.empty(len(cached), dtype=np.int64)
    for i in range(count):
        request = s.requests[s.ready[replica, i]]
        insert_by_remaining(cached, remaining, i, request.processed, max(0, request.total - request.processed - 1))
    size = 0
    tokens_in_batch = 0
    while row.waiting > 0 and row.admitted != row.max_admitted and size != row.max_batch:
        number = row.wait_head
        tokens = s.requests[number].prefill
        if tokens_in_batch + tokens > row.token_limit:
            break
        insert_by_remaining(cached, remaining, count, tokens + 1, max(0, s.requests[number].total - tokens - 2))
        count += 1
        if peak_tokens(cached, remaining, count) >= row.num_blocks:
            break
        admit(s, replica, number, tokens, -UNLIMITED)
        size = add_member(s, replica, slot, size, number, tokens)
        tokens_in_batch += tokens
    return size


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row = s.replicas[replica]
    iteration = row.iterations
    if row.ready == 0:
        size = admit_prompts(s, replica, slot)
        if size > 0:
            row.last_attempt = iteration + 1
        return size, 1
    # Iterations since the last attempt to admit prompts. A run of decodes skips attempts, which had nothing to admit.
    limit = row.max_waiting_iters
    waited = iteration - row.last_attempt
    if waited >= limit:
        if limit == 0 or waited % limit == 0:
            row.last_attempt = iteration
            size = admit_prompts(s, replica, slot)
            if size > 0:
                row.last_attempt = iteration + 1
                return size, 1
        else:
            row.last_attempt = iteration - waited % limit
        waited = iteration - row.last_attempt
    size, _ = schedule_decodes(s, replica, slot)
    return size, max(1, limit - waited) if row.waiting > 0 else FOREVER


def limits(config: LightllmSchedulerConfig, memory: MemoryPlan, stages: int) -> dict[str, int]:
    return {
        "token_limit": config.max_tokens_in_batch,
        "max_prompt_tokens": config.max_tokens_in_batch,
        "max_waiting_iters": config.max_waiting_iters,
        "max_request_tokens": memory.num_blocks,
    }


BATCHERS.register("lightllm")(Batcher(form_batch, limits, grows=True, chunked=False))
