"""llm-d's "sticky until saturated" (llm-d-router, `filter/prefixcacheaffinity` and `scorer/tokenload`), the default of
its guides since August 2026. The index is the approximate one of vidur.scheduler.routers.llm_d."""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LlmDStickyGlobalSchedulerConfig
from vidur.observation import ARRIVAL_PROMPT, MATCHED_TOKENS, OUTSTANDING, UNCACHED_TOKENS, Floats, View
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import least_at_random, matched_share
from vidur.scheduler.routers.llm_d import approximate_index, believed_block


def choose_llm_d_sticky(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the least load, ties at random, among the sticky replicas, where at least a threshold of the prompt's
    blocks match; among all if there are none, or if the least prefill backlog of the sticky ones exceeds that of the
    others by more than a limit. Load: uncached prompt tokens in flight with the arrival's, up to a limit, or
    outstanding requests. memory: threshold, limit in seconds, tokens/s, 1 if requests are the load, most tokens, tokens
    of a block."""
    prompt = view.arrival[ARRIVAL_PROMPT]
    sticky = np.zeros(len(view.available), np.int64)
    backlogs = np.full(2, np.inf)  # of the others, of the sticky
    loads = np.empty(len(view.available))
    for replica in range(len(view.available)):
        in_flight = view.prefix[replica, UNCACHED_TOKENS]
        if view.available[replica]:
            sticky[replica] = matched_share(view.prefix, replica, prompt, memory[5]) >= memory[0]
            kind = sticky[replica]
            backlogs[kind] = min(backlogs[kind], in_flight / memory[2])
        loads[replica] = view.ledger[replica, OUTSTANDING]
        if memory[3] == 0.0:
            loads[replica] = min(in_flight + prompt - view.prefix[replica, MATCHED_TOKENS], memory[4])
    if backlogs[1] == np.inf or backlogs[1] - backlogs[0] > memory[1]:
        return least_at_random(loads, view.available, draws[0])
    return least_at_random(loads, sticky, draws[0])


@GLOBAL_SCHEDULERS.register("llm_d_sticky")
class LlmDStickyScheduler(KernelScheduler):
    choose = staticmethod(choose_llm_d_sticky)
    draws_numbers = True
    needs_index = True

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, LlmDStickyGlobalSchedulerConfig)
        gate = [config.affinity_threshold, config.most_seconds, config.prefill_throughput]
        load = [float(config.scorer == "active_request"), config.most_tokens]
        return cls(context, np.array([*gate, *load, believed_block(config)]))

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        assert isinstance(config, LlmDStickyGlobalSchedulerConfig)
        return approximate_index(config)
