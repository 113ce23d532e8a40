"""LightLLM: token-grained KV-cache; prompts join when the peak memory of all requests together will fit.

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
def insert_by_remaining(held: Ints, remaining: Ints, count: int, has_run: int, left: int) -> None:
    """Insert (has_run, left) so that `remaining[:count + 1]` descends; after its equals."""
    hole = count
    while hole > 0 and remaining[hole - 1] < left:
        remaining[hole] = remaining[hole - 1]
        held[hole] = held[hole - 1]
        hole -= 1
    remaining[hole] = left
    held[hole] = has_run


@kernel
def peak_tokens(held: Ints, remaining: Ints, count: int) -> int:
    """The most KV-cache tokens that these requests will hold together, as the shorter ones end."""
    peak = 0
    total = 0
    for i in range(count):
        total += held[i]
        peak = max(peak, remaining[i] * (i + 1) + total)
    return peak


@allocating_kernel
def admit_prompts(s: State, replica: int, slot: int) -> int:
    """Fill the batch with waiting prompts. Its size."""
    row = s.replicas[replica]
    count = row.ready
    held = np.empty(count + row.max_batch + 1, dtype=np.int64)
    remaining = np.empty(len(held), dtype=np.int64)
    for i in range(count):
        request = s.requests[s.ready[replica, i]]
        insert_by_remaining(held, remaining, i, request.processed, max(0, request.total - request.processed - 1))
    size = 0
    tokens_in_batch = 0
    while row.waiting > 0 and row.admitted != row.max_admitted and size != row.max_batch:
        number = row.wait_head
        tokens = s.requests[number].prefill
        if tokens_in_batch + tokens > row.token_limit:
            break
        insert_by_remaining(held, remaining, count, tokens + 1, max(0, s.requests[number].total - tokens - 2))
        count += 1
        # The peak is the test; requests in flight elsewhere in a pipeline are not in it, as upstream.
        if peak_tokens(held, remaining, count) >= row.num_blocks:
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
    # Decode iterations since prompts were last tried. Runs of decodes pass over tries that could admit nothing.
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
