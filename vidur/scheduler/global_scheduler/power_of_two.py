"""The less loaded of two replicas at random (Mitzenmacher, 2001)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.observation import OUTSTANDING, Floats


def choose_power_of_two(
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
    """Draws two different available replicas and takes the one with fewer outstanding requests."""
    count = available.sum()
    first = int(draws[0] * count)
    second = int(draws[1] * (count - 1))
    if second >= first:
        second += 1
    best = -1
    seen = 0
    for replica in range(len(available)):
        if not available[replica]:
            continue
        if seen == first or (seen == second and count > 1):
            fewer = best < 0 or ledger[replica, OUTSTANDING] < ledger[best, OUTSTANDING]
            # Of two equals, the one drawn first.
            if fewer or (seen == first and ledger[replica, OUTSTANDING] == ledger[best, OUTSTANDING]):
                best = replica
        seen += 1
    return best


@GLOBAL_SCHEDULERS.register("power_of_two")
class PowerOfTwoScheduler(KernelScheduler):
    choose = staticmethod(choose_power_of_two)
    draws_numbers = True
