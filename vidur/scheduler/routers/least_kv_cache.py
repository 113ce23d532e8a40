"""Lowest last reported KV-cache usage."""

from __future__ import annotations

from vidur.observation import GAUGE_KV_USAGE, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.routers.choice import least


def choose_least_kv_cache(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the lowest KV-cache gauge; ties take turns. memory: the last choice."""
    replica = least(view.gauges[:, GAUGE_KV_USAGE], view.available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("least_kv_cache")
class LeastKvCacheScheduler(KernelScheduler):
    choose = staticmethod(choose_least_kv_cache)
