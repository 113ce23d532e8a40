"""vLLM before its v1 engine: a batch is either whole prompts or decodes; preemption by recomputation.

Source of the behaviour: microsoft/vidur, vllm_replica_scheduler.py; Kwon et al., 2023 (PagedAttention).
"""

from __future__ import annotations

from vidur.config import VllmSchedulerConfig
from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.queues import admit
from vidur.engine.state import State
from vidur.memory_planner import MemoryPlan
from vidur.scheduler.batching.ready import add_member, schedule_decodes, sort_by_arrival


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row = s.replicas[replica]
    size = 0
    longest = 0
    while row.waiting > 0 and row.admitted != row.max_admitted and size != row.max_batch:
        number = row.wait_head
        tokens = s.requests[number].prefill
        padded = (size + 1) * max(longest, tokens)
        # A preempted request may have outgrown the budget; it runs alone once the replica is empty.
        if padded > row.token_limit and row.admitted > 0:
            break
        if not admit(s, replica, number, -(-tokens // row.block_size), row.watermark):
            break
        size = add_member(s, replica, slot, size, number, tokens)
        longest = max(longest, tokens)
    if size > 0:
        return size, 1
    sort_by_arrival(s, replica)
    size, _ = schedule_decodes(s, replica, slot)
    return size, FOREVER if row.ready == 0 else 1


def limits(config: VllmSchedulerConfig, memory: MemoryPlan, stages: int) -> dict[str, int]:
    return {"token_limit": config.max_tokens_in_batch}


BATCHERS.register("vllm")(Batcher(form_batch, limits, grows=True, chunked=False))
