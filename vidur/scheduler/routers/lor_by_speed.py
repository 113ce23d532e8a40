"""Fewest outstanding requests, divided by speed."""

from __future__ import annotations

from vidur.observation import OUTSTANDING, SPEED, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.routers.choice import least


def choose_lor_by_speed(view: View, memory: Floats, draws: Floats) -> int:
    """Choose by outstanding requests, including the arrival, divided by speed. memory: the last choice."""
    replica = least((view.ledger[:, OUTSTANDING] + 1.0) / view.hardware[:, SPEED], view.available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("lor_by_speed")
class LORBySpeedScheduler(KernelScheduler):
    choose = staticmethod(choose_lor_by_speed)
