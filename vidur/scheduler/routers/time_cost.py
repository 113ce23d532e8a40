"""Least cost in seconds, with prefix caches counted: the physical baseline of cache-aware routing."""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, TimeCostGlobalSchedulerConfig
from vidur.observation import (
    ARRIVAL_SECONDS,
    AWAITING,
    BACKLOG_SECONDS,
    OUTSTANDING,
    WEIGHTS_SECONDS,
    Floats,
    View,
)
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import least_at_random


def choose_time_cost(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the least b + p (1 + c d) + w n s: b seconds of prefills before the arrival's, p of its own without what
    is cached, d requests in decode, which its prefill delays, n outstanding requests, s seconds to read the weights;
    ties at random. memory: c, w."""
    scores = np.empty(len(view.available))
    for replica in range(len(view.available)):
        outstanding = view.ledger[replica, OUTSTANDING]
        decodes = outstanding - view.ledger[replica, AWAITING]
        prefill = view.prefix[replica, ARRIVAL_SECONDS] * (1.0 + memory[0] * decodes)
        others = memory[1] * outstanding * view.prefix[replica, WEIGHTS_SECONDS]
        scores[replica] = view.prefix[replica, BACKLOG_SECONDS] + prefill + others
    return least_at_random(scores, view.available, draws[0])


@GLOBAL_SCHEDULERS.register("time_cost")
class TimeCostScheduler(KernelScheduler):
    choose = staticmethod(choose_time_cost)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, TimeCostGlobalSchedulerConfig)
        return cls(context, np.array([config.decode_weight, config.request_weight]))
