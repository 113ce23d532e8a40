"""Each replica in its turn, as often as it is fast (smooth weighted round robin, as in nginx)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.observation import SPEED, Floats


def choose_weighted_round_robin(
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
    """Every available replica earns its speed; the richest is chosen and pays what all have earned. memory: credits."""
    earned = 0.0
    best = -1
    for replica in range(len(available)):
        if available[replica]:
            memory[replica] += hardware[replica, SPEED]
            earned += hardware[replica, SPEED]
            if best < 0 or memory[replica] > memory[best]:
                best = replica
    memory[best] -= earned
    return best


@GLOBAL_SCHEDULERS.register("weighted_round_robin")
class WeightedRoundRobinScheduler(KernelScheduler):
    choose = staticmethod(choose_weighted_round_robin)
    observes = 0

    def __init__(self, context: RouterContext) -> None:
        super().__init__(context, np.zeros(context.num_replicas))
