"""`cache_aware` of sglang's gateway and of vllm-project/router (`src/policies/cache_aware.rs`).

Their index is a tree of characters (of tokens in vllm-router 0.1.17, where a worker tokenises): here blocks of tokens,
4 characters each, which it evicts at once and not each 30 or 120 s. Where several replicas hold the longest match they
take the one that held it first, or any; here one at random. vllm-router's map of sessions, which a chat with a
session's name uses first, is left out.
"""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, SglangCacheAwareGlobalSchedulerConfig
from vidur.observation import ARRIVAL_PROMPT, OUTSTANDING, Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import CHARACTERS_PER_TOKEN, least, least_at_random, longest_matches


def choose_sglang_cache_aware(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the fewest outstanding requests, the lowest number if tied, if the cluster is unbalanced: most - fewest
    above an absolute threshold and most above a relative one times fewest, over all replicas. Else choose the longest
    match if it exceeds a share of the prompt; else the fewest requests. memory: share, absolute and relative
    threshold."""
    fewest, most = np.inf, 0.0
    for replica in range(len(view.available)):
        fewest = min(fewest, view.ledger[replica, OUTSTANDING])
        most = max(most, view.ledger[replica, OUTSTANDING])
    if most - fewest <= memory[1] or most <= memory[2] * fewest:
        matches = longest_matches(view.prefix, view.available, memory[0] * view.arrival[ARRIVAL_PROMPT])
        if matches.sum() > 0:
            return least_at_random(np.zeros(len(matches)), matches, draws[0])
    return least(view.ledger[:, OUTSTANDING], view.available, -1)


@GLOBAL_SCHEDULERS.register("sglang_cache_aware")
class SglangCacheAwareScheduler(KernelScheduler):
    choose = staticmethod(choose_sglang_cache_aware)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, SglangCacheAwareGlobalSchedulerConfig)
        return cls(context, np.array(config.constants[:3]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, SglangCacheAwareGlobalSchedulerConfig)
        if config.belief == "shared":
            return None
        tokens = config.constants[3] // CHARACTERS_PER_TOKEN
        return IndexOptions(capacity_tokens=tokens, outputs=False, holds=False)
