"""Least KV-cache usage, as last reported."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.global_scheduler.choice import least
from vidur.scheduler.observation import GAUGE_KV_USAGE, Floats


def choose_least_kv_cache(
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
    """The replica whose KV-cache gauge is lowest; equals take turns. memory: the last choice."""
    replica = least(gauges[:, GAUGE_KV_USAGE], available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("least_kv_cache")
class LeastKvCacheScheduler(KernelScheduler):
    choose = staticmethod(choose_least_kv_cache)
