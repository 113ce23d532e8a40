"""A replica at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.observation import Floats


def choose_random(
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
    """Each available replica with the same probability."""
    left = int(draws[0] * available.sum())
    replica = 0
    while not available[replica] or left > 0:
        left -= available[replica]
        replica += 1
    return replica


@GLOBAL_SCHEDULERS.register("random")
class RandomScheduler(KernelScheduler):
    choose = staticmethod(choose_random)
    observes = 0
    draws_numbers = True
