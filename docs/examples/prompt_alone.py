"""A batching policy of one's own: a waiting prompt runs alone and at once, decodes run together otherwise.

python docs/examples/prompt_alone.py --replica_scheduler_config_type prompt_alone

Importing this file is what makes the policy known; so it is run in place of vidur.main, whose flags it takes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from vidur.config import OrcaSchedulerConfig
from vidur.engine.arrays import Floats, Ints
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    MAX_ADMITTED,
    MAX_BATCH,
    MAX_BLOCKS_PER_REQUEST,
    NUM_BLOCKS,
    PREFILL,
    READY,
    WAIT_HEAD,
    WAITING,
)
from vidur.engine.queues import allocate, pop_waiting
from vidur.main import main
from vidur.scheduler.replica_scheduler import FOREVER, POLICIES, Policy


@dataclass(frozen=True)
class PromptAloneSchedulerConfig(OrcaSchedulerConfig):
    """Limits as Orca's: a request reserves the blocks of the longest. Flags: --prompt_alone_scheduler_config_..."""

    type_name: ClassVar[str] = "prompt_alone"
    description: ClassVar[str] = "each prompt in a batch of its own, before the decodes"


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
    blocks = replicas[replica, MAX_BLOCKS_PER_REQUEST]
    free = replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED]
    room = replicas[replica, ADMITTED] < replicas[replica, MAX_ADMITTED] and free >= blocks
    if replicas[replica, WAITING] > 0 and room:
        request = replicas[replica, WAIT_HEAD]
        pop_waiting(requests, replicas, replica)
        replicas[replica, ADMITTED] += 1
        allocate(requests, replicas, replica, request, blocks)
        batch_requests[replica, slot, 0] = request
        batch_tokens[replica, slot, 0] = requests[request, PREFILL]
        return 1, 1
    count = replicas[replica, READY]
    size = min(count, replicas[replica, MAX_BATCH])
    for index in range(size):
        batch_requests[replica, slot, index] = ready[replica, index]
        batch_tokens[replica, slot, index] = 1
    for index in range(size, count):
        ready[replica, index - size] = ready[replica, index]
    replicas[replica, READY] = count - size
    # Left over: the next batch begins with them, so this one is not repeated.
    return size, (1 if size < count else FOREVER)


POLICIES.register("prompt_alone")(Policy(form_batch, grows=False, chunked=False))

if __name__ == "__main__":
    sys.exit(main())
