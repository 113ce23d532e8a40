"""Least outstanding requests."""

from __future__ import annotations

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LORGlobalSchedulerConfig
from vidur.observation import GAUGE_WAITING, OUTSTANDING, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import least


def choose_lor(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the fewest outstanding requests; ties take turns. memory: the last choice."""
    replica = least(view.ledger[:, OUTSTANDING], view.available, int(memory[0]))
    memory[0] = replica
    return replica


def choose_fewest_waiting(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the shortest waiting queue, the lowest number on ties (upstream's rule)."""
    return least(view.gauges[:, GAUGE_WAITING], view.available, -1)


@GLOBAL_SCHEDULERS.register("lor")
class LORScheduler(KernelScheduler):
    choose = staticmethod(choose_lor)

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, LORGlobalSchedulerConfig)
        kind = FewestWaitingScheduler if config.count == "waiting" else cls
        return kind(context)


class FewestWaitingScheduler(KernelScheduler):
    """Reads waiting queues without delay, which no router in front of real replicas can."""

    choose = staticmethod(choose_fewest_waiting)
    needs_fresh_gauges = True
