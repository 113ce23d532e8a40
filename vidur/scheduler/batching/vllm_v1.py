"""vLLM's v1 scheduler: one token budget; running requests first, then waiting ones; chunked prefill.

Source of the behaviour: vllm-project/vllm, vllm/v1/core/sched/scheduler.py (FCFS, no speculation). Requests whose
content is known find cached prefixes (vidur.engine.cache); then all their tokens must fit to be admitted.
In a pipeline the newest requests that are not in flight are preempted. A request that only lacks blocks of requests in
flight waits for them: if it preempted itself instead, two requests could evict each other forever.
"""

from __future__ import annotations

from vidur.config import VllmV1SchedulerConfig
from vidur.engine.callback import hook_callback
from vidur.engine.compile import kernel
from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.queues import admit, allocate, free_blocks, preempt
from vidur.engine.state import State
from vidur.memory_planner import MemoryPlan
from vidur.scheduler.batching.ready import add_member, keep_ready

run_hook = hook_callback.call


@kernel
def sort_by_admission(s: State, replica: int) -> None:
    ready = s.ready
    for i in range(1, s.replicas[replica].ready):
        request = ready[replica, i]
        hole = i
        while hole > 0 and s.requests[ready[replica, hole - 1]].admission > s.requests[request].admission:
            ready[replica, hole] = ready[replica, hole - 1]
            hole -= 1
        ready[replica, hole] = request


@kernel
def next_tokens(s: State, replica: int, number: int, budget: int) -> int:
    """Return how many tokens the request processes within the remaining budget."""
    request, threshold = s.requests[number], s.replicas[replica].prefill_threshold
    if request.prefilled:
        return min(1, budget)
    tokens = request.prefill - request.processed
    if 0 < threshold < tokens:
        tokens = threshold
    return min(tokens, budget)


@kernel
def tokens_after(s: State, number: int, tokens: int) -> int:
    """Return the request's tokens in the KV-cache after its next `tokens`."""
    request = s.requests[number]
    # In decode, `processed` already counts the next input token.
    return request.processed + (0 if request.prefilled else tokens)


@kernel
def missing_blocks(s: State, replica: int, number: int, tokens: int) -> int:
    """Return how many more blocks the request needs for its next `tokens`."""
    needed = -(-tokens_after(s, number, tokens) // s.replicas[replica].block_size)
    return max(0, needed - s.requests[number].blocks)


@kernel
def schedule_running(s: State, replica: int, slot: int, now: float) -> tuple[int, int, int]:
    """Batch the requests in `ready`, preempting from its end while blocks are short.

    Returns (batch size, remaining token budget, repeats); the budget is -1 after a preemption.
    """
    row, ready = s.replicas[replica], s.ready
    if row.stages > 1:
        sort_by_admission(s, replica)
    count, budget, repeats, preempted, size = row.ready, row.token_limit, FOREVER, False, 0
    while size < count and budget > 0:
        number = ready[replica, size]
        tokens = next_tokens(s, replica, number, budget)
        blocks = missing_blocks(s, replica, number, tokens)
        # Preempt the request itself last, and only if nothing in flight will free blocks.
        keep = size + 1 if row.in_flight > 0 else size
        while blocks > free_blocks(s, replica) and count > keep:
            count -= 1
            preempt(s, replica, ready[replica, count])
            preempted = True
        if count == size or blocks > free_blocks(s, replica):
            break
        if row.caching == 1:
            run_hook(s.hooks[0].cover, (replica, number, tokens_after(s, number, tokens), now, s))
        else:
            allocate(s, replica, number, blocks)
        if not s.requests[number].prefilled:
            repeats = 1
        size = add_member(s, replica, slot, size, number, tokens)
        budget -= tokens
    row.ready = count
    keep_ready(s, replica, 0, size)
    if row.ready > 0 or preempted:
        repeats = 1
    return size, -1 if preempted else budget, repeats


@kernel
def admit_head(s: State, replica: int, request: int, budget: int, now: float) -> int:
    """Admit the head of the waiting queue. Returns the tokens that it processes next, 0 if it was not admitted."""
    if s.replicas[replica].caching == 1:
        return run_hook(s.hooks[0].admit, (replica, request, budget, now, s))  # type: ignore[no-any-return]
    tokens = next_tokens(s, replica, request, budget)
    return tokens if admit(s, replica, request, missing_blocks(s, replica, request, tokens), 0) else 0


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row = s.replicas[replica]
    size, budget, repeats = schedule_running(s, replica, slot, now)
    while row.waiting > 0 and budget > 0 and row.admitted != row.max_admitted:
        request = row.wait_head
        tokens = admit_head(s, replica, request, budget, now)
        if tokens == 0:
            break
        size = add_member(s, replica, slot, size, request, tokens)
        budget -= tokens
        repeats = 1
    return size, repeats


def limits(config: VllmV1SchedulerConfig, memory: MemoryPlan, stages: int) -> dict[str, int]:
    return {
        "token_limit": config.max_num_batched_tokens,
        "prefill_threshold": config.long_prefill_token_threshold,
        "max_batch": config.max_num_seqs,
        "max_admitted": config.max_num_seqs,
        "caching": int(config.enable_prefix_caching),
    }


BATCHERS.register("vllm_v1")(Batcher(form_batch, limits, grows=True, chunked=True))
