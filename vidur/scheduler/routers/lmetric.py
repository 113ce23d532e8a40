"""LMetric: a product in place of weights (Zhang et al., OSDI 2026, arXiv:2603.15202).

Dynamo's `router_selection_policy=lmetric` also multiplies by the batch size + 1. The `lmetric` of sglang's gateway does
not count queued tokens: counts_queued false, belief own.
"""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LmetricGlobalSchedulerConfig
from vidur.observation import ARRIVAL_PROMPT, MATCHED_TOKENS, OUTSTANDING, UNCACHED_TOKENS, Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import CHARACTERS_PER_TOKEN, least_at_random


def choose_lmetric(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the least product of the prompt tokens to compute if the arrival went there, and the requests there with
    it; ties at random. memory: 1 if tokens of requests without a first token count, else 0."""
    scores = np.empty(len(view.available))
    for replica in range(len(view.available)):
        tokens = max(view.arrival[ARRIVAL_PROMPT] - view.prefix[replica, MATCHED_TOKENS], 0.0)
        tokens += memory[0] * view.prefix[replica, UNCACHED_TOKENS]
        scores[replica] = tokens * (view.ledger[replica, OUTSTANDING] + 1.0)
    return least_at_random(scores, view.available, draws[0])


@GLOBAL_SCHEDULERS.register("lmetric")
class LmetricScheduler(KernelScheduler):
    choose = staticmethod(choose_lmetric)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, LmetricGlobalSchedulerConfig)
        return cls(context, np.array([float(config.counts_queued)]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, LmetricGlobalSchedulerConfig)
        if config.belief == "shared":
            return None
        return IndexOptions(capacity_tokens=2**26 // CHARACTERS_PER_TOKEN, outputs=False, holds=False)
