"""Orca: whole prompts and decodes share a batch; admission reserves room for the longest possible request.

Source of the behaviour: microsoft/vidur, orca_replica_scheduler.py; Yu et al., 2022 (Orca).
"""

from __future__ import annotations

from typing import Any

from vidur.engine.compile import kernel
from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.queues import admit
from vidur.engine.state import State
from vidur.memory_planner import MemoryPlan
from vidur.scheduler.batching.ready import add_member, keep_ready


@kernel
def admit_whole_prompts(s: State, replica: int, slot: int, size: int) -> int:
    """Add whole waiting prompts to a batch of `size`, each with the longest request's blocks. Returns the new size."""
    row = s.replicas[replica]
    while row.waiting > 0 and size < row.max_batch:
        request = row.wait_head
        if not admit(s, replica, request, row.max_blocks_per_request, 0):
            break
        size = add_member(s, replica, slot, size, request, s.requests[request].prefill)
    return size


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row = s.replicas[replica]
    decodes = min(row.ready, row.max_batch)
    size = 0
    for i in range(decodes):
        size = add_member(s, replica, slot, size, s.ready[replica, i], 1)
    keep_ready(s, replica, 0, decodes)
    size = admit_whole_prompts(s, replica, slot, decodes)
    return size, FOREVER if size == decodes and row.ready == 0 else 1


def reserving_limits(config: Any, memory: MemoryPlan, stages: int) -> dict[str, int]:
    """Limits of a batcher that reserves room for the longest request: batch as many requests as memory holds."""
    fits = memory.max_blocks_per_request <= memory.num_blocks
    return {
        "max_batch": memory.max_batch_size,
        "max_admitted": stages * memory.max_batch_size,
        "max_request_tokens": memory.max_blocks_per_request * memory.block_size if fits else 0,
    }


BATCHERS.register("orca")(Batcher(form_batch, reserving_limits, grows=False, chunked=False))
