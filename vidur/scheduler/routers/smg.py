"""`cache_aware` of smg (`model_gateway/src/policies/cache_aware.rs`), which spills single requests instead of all.

Its own index is the tree of characters of its HTTP mode, here of tokens, 4 characters each; smg's tree is shared by all
replicas, so it holds less of each. The cluster's index stands for its mode of KV events, where every match counts.
Newer releases choose among equals by an estimate of the wait, from loads polled each 10 s; here by outstanding
requests, as those before did.
"""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, SmgGlobalSchedulerConfig
from vidur.observation import ARRIVAL_PROMPT, OUTSTANDING, Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import CHARACTERS_PER_TOKEN, least_at_random, longest_matches


def choose_smg(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the fewest outstanding requests, ties at random, among the replicas with the longest match above a share
    of the prompt; without such, among all. A replica is hot if it has more than the mean times a relative threshold,
    and more than the mean plus an absolute one; those with the longest match that are hot do not count, and if all are,
    the choice is among all that are not hot. memory: share, absolute and relative threshold."""
    mean, count = 0.0, 0
    for replica in range(len(view.available)):
        if view.available[replica]:
            mean += view.ledger[replica, OUTSTANDING]
            count += 1
    mean /= count
    matches = longest_matches(view.prefix, view.available, memory[0] * view.arrival[ARRIVAL_PROMPT])
    matched = matches.sum() > 0
    calm = view.available.copy()
    for replica in range(len(view.available)):
        load = view.ledger[replica, OUTSTANDING]
        if load > mean * memory[2] and load > mean + memory[1]:
            calm[replica] = 0
            matches[replica] = 0
    allowed = view.available
    if matches.sum() > 0:
        allowed = matches
    elif matched and calm.sum() > 0:
        allowed = calm
    return least_at_random(view.ledger[:, OUTSTANDING], allowed, draws[0])


@GLOBAL_SCHEDULERS.register("smg")
class SmgScheduler(KernelScheduler):
    choose = staticmethod(choose_smg)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, SmgGlobalSchedulerConfig)
        share = config.cache_threshold if config.belief == "own" else 0.0
        return cls(context, np.array([share, config.balance_abs_threshold, config.balance_rel_threshold]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, SmgGlobalSchedulerConfig)
        if config.belief == "shared":
            return None
        tokens = config.max_tree_size // CHARACTERS_PER_TOKEN
        return IndexOptions(capacity_tokens=tokens, outputs=False, holds=False)
