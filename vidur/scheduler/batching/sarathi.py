"""Sarathi: decodes first, then prefills in chunks, within a token budget per iteration.

Source of the behaviour: microsoft/vidur, sarathi_replica_scheduler.py; Agrawal et al., 2024 (Sarathi-Serve).
"""

from __future__ import annotations

from vidur.config import SarathiSchedulerConfig
from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.queues import admit
from vidur.engine.state import State
from vidur.memory_planner import MemoryPlan
from vidur.scheduler.batching.ready import add_member, keep_ready, schedule_decodes, sort_by_arrival


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row = s.replicas[replica]
    size, prefills = schedule_decodes(s, replica, slot)
    budget = row.token_limit - size
    repeats = FOREVER
    kept = 0
    for i in range(prefills):
        number = s.ready[replica, i]
        request = s.requests[number]
        tokens = min(request.prefill - request.processed, budget)
        if tokens <= 0:
            s.ready[replica, kept] = number
            kept += 1
            continue
        size = add_member(s, replica, slot, size, number, tokens)
        budget -= tokens
        repeats = 1
    keep_ready(s, replica, kept, prefills)
    if row.ready > 0:
        sort_by_arrival(s, replica)
        repeats = 1

    while row.waiting > 0 and row.admitted != row.max_admitted and size < row.max_batch:
        number = row.wait_head
        request = s.requests[number]
        tokens = min(request.prefill, budget)
        if tokens <= 0 or not admit(s, replica, number, -(-request.prefill // row.block_size), row.watermark):
            break
        size = add_member(s, replica, slot, size, number, tokens)
        budget -= tokens
        repeats = 1
    return size, repeats


def limits(config: SarathiSchedulerConfig, memory: MemoryPlan, stages: int) -> dict[str, int]:
    return {"token_limit": config.chunk_size}


BATCHERS.register("sarathi")(Batcher(form_batch, limits, grows=True, chunked=True))
