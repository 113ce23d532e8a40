"""The weighted sum of scores that is the default of llm-d's endpoint picker (llm-d-router,
`config/loader/defaults.go`).

Its approximate prefix index holds blocks of 64 tokens or more, prompts only, and as many blocks as the cache has of 16
tokens, so it believes in four times the cache; it forgets the head of a prompt before its tail. llm-d polls gauges each
50 ms: --cluster_config_gauge_refresh_interval 0.05. Its last block of a prompt, though partial, can match; here it
cannot, so an identical prompt scores a little less than 1.
"""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import (
    BaseGlobalSchedulerConfig,
    BaseLlmDGlobalSchedulerConfig,
    LlmDGlobalSchedulerConfig,
)
from vidur.observation import ARRIVAL_PROMPT, GAUGE_KV_USAGE, GAUGE_WAITING, Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import least_at_random, matched_share


def choose_llm_d(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the highest sum of three weighted scores in 0..1, ties at random: (most waiting - waiting) / (most -
    fewest waiting), or 1 if all are equal; 1 - KV-cache usage; the share of the prompt's blocks that match. memory:
    their weights, tokens of a block."""
    fewest, most = np.inf, -np.inf
    for replica in range(len(view.available)):
        if view.available[replica]:
            fewest = min(fewest, view.gauges[replica, GAUGE_WAITING])
            most = max(most, view.gauges[replica, GAUGE_WAITING])
    costs = np.empty(len(view.available))
    for replica in range(len(view.available)):
        queue = (most - view.gauges[replica, GAUGE_WAITING]) / (most - fewest) if most > fewest else 1.0
        kv = min(max(1.0 - view.gauges[replica, GAUGE_KV_USAGE], 0.0), 1.0)
        prefix = matched_share(view.prefix, replica, view.arrival[ARRIVAL_PROMPT], memory[3])
        costs[replica] = -(memory[0] * queue + memory[1] * kv + memory[2] * prefix)
    return least_at_random(costs, view.available, draws[0])


def approximate_index(config: BaseLlmDGlobalSchedulerConfig) -> IndexOptions | None:
    """Return the options of llm-d's approximate prefix index; None if the cluster's is to be used."""
    if config.belief == "shared":
        return None
    return IndexOptions(
        block_tokens=config.block_tokens,
        capacity_factor=config.capacity_factor,
        outputs=False,
        holds=False,
        tails_first=False,
        contiguous=False,
    )


def believed_block(config: BaseLlmDGlobalSchedulerConfig) -> float:
    """Return the tokens of a block of the index; 1 for the cluster's, whose matches are of whole blocks already."""
    return 1.0 if config.belief == "shared" else float(config.block_tokens)


@GLOBAL_SCHEDULERS.register("llm_d")
class LlmDScheduler(KernelScheduler):
    choose = staticmethod(choose_llm_d)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, LlmDGlobalSchedulerConfig)
        weights = [config.queue_weight, config.kv_weight, config.prefix_weight]
        return cls(context, np.array([*weights, believed_block(config)]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, LlmDGlobalSchedulerConfig)
        return approximate_index(config)
