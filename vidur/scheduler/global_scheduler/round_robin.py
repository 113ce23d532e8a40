"""Each replica in its turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.observation import Floats


def choose_round_robin(
    now: float,
    ledger: Floats,
    gauges: Floats,
    hardware: Floats,
    arrival: Floats,
    available: NDArray[np.int64],
    completions: Floats,
    memory: Floats,
    draws: Floats,
) -> int:
    """The next available replica. memory: the last choice."""
    replica = (int(memory[0]) + 1) % len(available)
    while not available[replica]:
        replica = (replica + 1) % len(available)
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("round_robin")
class RoundRobinScheduler(KernelScheduler):
    choose = staticmethod(choose_round_robin)
    observes = 0
