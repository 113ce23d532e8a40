"""A replica at random."""

from __future__ import annotations

from vidur.observation import Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler


def choose_random(view: View, memory: Floats, draws: Floats) -> int:
    """Choose each available replica with equal probability."""
    left = int(draws[0] * view.available.sum())
    replica = 0
    while not view.available[replica] or left > 0:
        left -= view.available[replica]
        replica += 1
    return replica


@GLOBAL_SCHEDULERS.register("random")
class RandomScheduler(KernelScheduler):
    choose = staticmethod(choose_random)
    observes = 0
    draws_numbers = True
