"""NVIDIA Dynamo's KV router (`lib/kv-router/src/scheduling/selector/default.rs`), without its queue, its host and disk
tiers and its tracking of outputs.

Dynamo's active blocks include those that the arrival would add, and count a block once that the arrival shares with a
running request; here the arrival's blocks are left out, alike everywhere. By default Dynamo's index follows KV events,
as the cluster's does with --cluster_config_prefix_index events; without them, its own forgets a block after 120 s.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, DynamoGlobalSchedulerConfig
from vidur.observation import (
    ARRIVAL_PROMPT,
    HELD_TOKENS,
    MATCHED_TOKENS,
    OUTSTANDING,
    UNCACHED_TOKENS,
    Floats,
    View,
)
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import UNLIMITED_TOKENS, least_at_random


def choose_dynamo(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the least s max(0, u + n - c m) + h + a r, ties at random, in tokens, as blocks are all alike: u uncached
    prompt tokens in flight, n the arrival's, m of them matched, h held by outstanding requests, r of these. The credit
    c is divided by 1 + decay (u - least u) / n. At a temperature above 0 draw from the softmax of minus the cost,
    scaled to 0..1, over the temperature. memory: c, decay, s, a, temperature."""
    prompt = max(view.arrival[ARRIVAL_PROMPT], 1.0)
    least_backlog = np.inf
    for replica in range(len(view.available)):
        if view.available[replica]:
            least_backlog = min(least_backlog, view.prefix[replica, UNCACHED_TOKENS])
    costs = np.empty(len(view.available))
    lowest, highest = np.inf, -np.inf
    for replica in range(len(view.available)):
        backlog = view.prefix[replica, UNCACHED_TOKENS]
        credit = (
            memory[0] / (1.0 + memory[1] * (backlog - least_backlog) / prompt) * view.prefix[replica, MATCHED_TOKENS]
        )
        costs[replica] = memory[2] * max(0.0, backlog + prompt - credit) + view.prefix[replica, HELD_TOKENS]
        costs[replica] += memory[3] * view.ledger[replica, OUTSTANDING]
        if view.available[replica]:
            lowest, highest = min(lowest, costs[replica]), max(highest, costs[replica])
    if memory[4] == 0.0 or lowest == highest:
        return least_at_random(costs, view.available, draws[0])
    total = 0.0
    for replica in range(len(view.available)):
        costs[replica] = math.exp(-(costs[replica] - lowest) / (highest - lowest) / memory[4])
        total += costs[replica] * view.available[replica]
    left, chosen = draws[0] * total, -1
    for replica in range(len(view.available)):
        if view.available[replica] and left >= 0.0:
            left -= costs[replica]
            chosen = replica
    return chosen


@GLOBAL_SCHEDULERS.register("dynamo")
class DynamoScheduler(KernelScheduler):
    choose = staticmethod(choose_dynamo)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, DynamoGlobalSchedulerConfig)
        credit = [config.overlap_score_credit, config.overlap_score_credit_decay]
        weights = [config.prefill_load_scale, config.active_request_weight]
        return cls(context, np.array([*credit, *weights, config.temperature]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, DynamoGlobalSchedulerConfig)
        if config.belief == "shared":
            return None
        return IndexOptions(capacity_tokens=UNLIMITED_TOKENS, outputs=False, holds=False, ttl=config.ttl)
