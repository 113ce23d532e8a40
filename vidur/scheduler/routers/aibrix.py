"""`prefix-cache` of AIBrix (`pkg/plugins/gateway/algorithms/prefix_cache.go`).

Its own index holds 200,000 blocks of 4 characters, here a token, of all replicas together; here that many of each, in
blocks of the replica's size. It forgets the head of a prompt before its tail, and anything after 20 minutes.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.config.global_scheduler import AibrixGlobalSchedulerConfig, BaseGlobalSchedulerConfig
from vidur.observation import ARRIVAL_PROMPT, MATCHED_TOKENS, OUTSTANDING, Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import CHARACTERS_PER_TOKEN, least_at_random


def choose_aibrix(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the longest match, in whole percent of the prompt, then the fewest outstanding requests, then at random,
    among the replicas whose requests are at most the mean plus some standard deviations (of a sample). Without one,
    choose the fewest requests. If most - fewest requests exceeds a gap, and most a factor times (mean + 1), only
    replicas with the fewest may match. memory: gap, factor, deviations."""
    loads, ready = view.ledger[:, OUTSTANDING], view.available
    fewest, most, total, squares, count = np.inf, 0.0, 0.0, 0.0, 0
    for replica in range(len(ready)):
        if ready[replica]:
            fewest, most = min(fewest, loads[replica]), max(most, loads[replica])
            total += loads[replica]
            count += 1
    mean = total / count
    for replica in range(len(ready)):
        if ready[replica]:
            squares += (loads[replica] - mean) ** 2
    # With one replica the original divides by zero, so that no match passes; the only one is chosen all the same.
    limit = mean + memory[2] * math.sqrt(squares / max(count - 1, 1))
    unbalanced = most - fewest > memory[0] and most > memory[1] * (mean + 1.0)
    best, allowed = -1.0, np.zeros(len(ready), np.int64)
    for replica in range(len(ready)):
        matched = view.prefix[replica, MATCHED_TOKENS]
        if not ready[replica] or matched == 0.0 or loads[replica] > limit or (unbalanced and loads[replica] > fewest):
            continue
        percent = math.floor(100.0 * matched / view.arrival[ARRIVAL_PROMPT])
        if percent > best:
            best = percent
            allowed[:] = 0
        if percent == best:
            allowed[replica] = 1
    return least_at_random(loads, allowed if allowed.sum() > 0 else ready, draws[0])


@GLOBAL_SCHEDULERS.register("aibrix")
class AibrixScheduler(KernelScheduler):
    choose = staticmethod(choose_aibrix)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, AibrixGlobalSchedulerConfig)
        return cls(context, np.array([config.imbalance_gap, config.imbalance_factor, config.deviations]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, AibrixGlobalSchedulerConfig)
        if config.belief == "shared":
            return None
        tokens = max(config.blocks * config.block_bytes // CHARACTERS_PER_TOKEN, 1)
        return IndexOptions(capacity_tokens=tokens, outputs=False, holds=False, tails_first=False, ttl=config.ttl)
