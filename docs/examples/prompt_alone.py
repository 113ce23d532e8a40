"""A batching policy of one's own: a waiting prompt runs alone and at once, decodes run together otherwise.

python docs/examples/prompt_alone.py --replica_scheduler_config_type prompt_alone

Importing this file is what makes the policy known; so it is run in place of vidur.main, whose flags it takes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from vidur.config import OrcaSchedulerConfig
from vidur.engine.plug import BATCHERS, FOREVER, Batcher
from vidur.engine.queues import admit
from vidur.engine.state import State
from vidur.main import main
from vidur.scheduler.batching.orca import reserving_limits
from vidur.scheduler.batching.ready import add_member, keep_ready


@dataclass(frozen=True)
class PromptAloneSchedulerConfig(OrcaSchedulerConfig):
    """Limits as Orca's: a request reserves the blocks of the longest. Flags: --prompt_alone_scheduler_config_..."""

    type_name: ClassVar[str] = "prompt_alone"
    description: ClassVar[str] = "each prompt in a batch of its own, before the decodes"


def form_batch(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    row = s.replicas[replica]
    if row.waiting > 0 and row.admitted < row.max_admitted:
        request = row.wait_head
        if admit(s, replica, request, row.max_blocks_per_request, 0):
            return add_member(s, replica, slot, 0, request, s.requests[request].prefill), 1
    size = 0
    while size < row.ready and size < row.max_batch:
        size = add_member(s, replica, slot, size, s.ready[replica, size], 1)
    keep_ready(s, replica, 0, size)
    # Where some are left over, the next batch begins with them, so this one is not repeated.
    return size, FOREVER if row.ready == 0 else 1


BATCHERS.register("prompt_alone")(Batcher(form_batch, reserving_limits, grows=False, chunked=False))

if __name__ == "__main__":
    sys.exit(main())
