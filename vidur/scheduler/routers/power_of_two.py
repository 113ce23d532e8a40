"""The less loaded of two replicas at random (Mitzenmacher, 2001)."""

from __future__ import annotations

from vidur.observation import OUTSTANDING, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler


def choose_power_of_two(view: View, memory: Floats, draws: Floats) -> int:
    """Draw two different available replicas and choose the one with fewer outstanding requests."""
    count = view.available.sum()
    first = int(draws[0] * count)
    second = int(draws[1] * (count - 1))
    if second >= first:
        second += 1
    best = -1
    seen = 0
    for replica in range(len(view.available)):
        if not view.available[replica]:
            continue
        if seen == first or (seen == second and count > 1):
            fewer = best < 0 or view.ledger[replica, OUTSTANDING] < view.ledger[best, OUTSTANDING]
            # On a tie, take the one drawn first.
            if fewer or (seen == first and view.ledger[replica, OUTSTANDING] == view.ledger[best, OUTSTANDING]):
                best = replica
        seen += 1
    return best


@GLOBAL_SCHEDULERS.register("power_of_two")
class PowerOfTwoScheduler(KernelScheduler):
    choose = staticmethod(choose_power_of_two)
    draws_numbers = True
