"""Least outstanding requests per speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.global_scheduler.choice import least
from vidur.scheduler.observation import OUTSTANDING, SPEED, Floats


def choose_lor_by_speed(
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
    """The fewest outstanding requests, with the arrival, divided by the replica's speed. memory: the last choice."""
    replica = least((ledger[:, OUTSTANDING] + 1.0) / hardware[:, SPEED], available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("lor_by_speed")
class LORBySpeedScheduler(KernelScheduler):
    choose = staticmethod(choose_lor_by_speed)
