"""Fewest outstanding tokens, divided by speed."""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LeastTokensGlobalSchedulerConfig
from vidur.observation import Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import least, token_backlog


def choose_least_tokens(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the fewest outstanding tokens, divided by its speed. memory: last choice, expected output
    tokens."""
    scores = np.empty(len(view.available))
    token_backlog(view.ledger, view.hardware, view.arrival, view.completions, memory[1], scores)
    replica = least(scores, view.available, int(memory[0]))
    memory[0] = replica
    return replica


@GLOBAL_SCHEDULERS.register("least_tokens")
class LeastTokensScheduler(KernelScheduler):
    choose = staticmethod(choose_least_tokens)

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, LeastTokensGlobalSchedulerConfig)
        return cls(context, np.array([-1.0, config.expected_output_tokens]))
