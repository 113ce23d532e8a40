"""Least outstanding work, in tokens per speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LeastTokensGlobalSchedulerConfig
from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.global_scheduler.choice import least, token_backlog
from vidur.scheduler.observation import Floats


def choose_least_tokens(
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
    """The replica that owes the fewest tokens, divided by its speed. memory: last choice, prior of outputs."""
    scores = np.empty(len(available))
    token_backlog(ledger, hardware, arrival, completions, memory[1], scores)
    replica = least(scores, available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("least_tokens")
class LeastTokensScheduler(KernelScheduler):
    choose = staticmethod(choose_least_tokens)

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, LeastTokensGlobalSchedulerConfig)
        return cls(context, np.array([-1.0, config.expected_output_tokens]))
