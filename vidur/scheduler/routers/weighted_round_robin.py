"""Each replica in turn, in proportion to its speed (smooth weighted round robin, as in nginx)."""

from __future__ import annotations

import numpy as np

from vidur.observation import SPEED, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext


def choose_weighted_round_robin(view: View, memory: Floats, draws: Floats) -> int:
    """Credit each available replica with its speed; choose the largest credit and subtract the sum of the speeds from
    it. memory: credits."""
    earned = 0.0
    best = -1
    for replica in range(len(view.available)):
        if view.available[replica]:
            memory[replica] += view.hardware[replica, SPEED]
            earned += view.hardware[replica, SPEED]
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
