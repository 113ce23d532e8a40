"""`prefixaware` of vLLM's production stack (`src/vllm_router/routers/routing_logic.py`, `prefix/hashtrie.py`).

Its own index is a trie of chunks of 128 characters, here 32 tokens, that forgets nothing.
"""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, PrefixAwareGlobalSchedulerConfig
from vidur.observation import Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import (
    CHARACTERS_PER_TOKEN,
    UNLIMITED_TOKENS,
    least_at_random,
    longest_matches,
)


def choose_prefix_aware(view: View, memory: Floats, draws: Floats) -> int:
    """Choose a replica with the longest match, or any if there is none, with equal probability."""
    matches = longest_matches(view.prefix, view.available, 0.0)
    return least_at_random(np.zeros(len(matches)), matches if matches.sum() > 0 else view.available, draws[0])


@GLOBAL_SCHEDULERS.register("prefix_aware")
class PrefixAwareScheduler(KernelScheduler):
    choose = staticmethod(choose_prefix_aware)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        return cls(context, np.zeros(1))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, PrefixAwareGlobalSchedulerConfig)
        if config.belief == "shared":
            return None
        block = config.chunk_characters // CHARACTERS_PER_TOKEN
        return IndexOptions(block_tokens=block, capacity_tokens=UNLIMITED_TOKENS, outputs=False, holds=False)
