"""Each replica in turn."""

from __future__ import annotations

from vidur.observation import Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler


def choose_round_robin(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the next available replica. memory: the last choice."""
    replica = (int(memory[0]) + 1) % len(view.available)
    while not view.available[replica]:
        replica = (replica + 1) % len(view.available)
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("round_robin")
class RoundRobinScheduler(KernelScheduler):
    choose = staticmethod(choose_round_robin)
    observes = 0
