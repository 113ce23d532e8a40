"""Least outstanding work, in seconds."""

from __future__ import annotations

import numpy as np

from vidur.config.global_scheduler import BacklogTimeGlobalSchedulerConfig, BaseGlobalSchedulerConfig
from vidur.observation import (
    ARRIVAL_PROMPT,
    AWAITING_TOKENS,
    DECODE_SECONDS,
    OUTSTANDING,
    PREFILL_SECONDS,
    STREAMED_TOKENS,
    Floats,
    View,
)
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import expected_output, least


def choose_backlog_time(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the fewest seconds of outstanding work, including the arrival: prefill and expected
    decode, timed on its hardware. memory: last choice, expected output tokens."""
    output = expected_output(view.completions, memory[1])
    scores = np.empty(len(view.available))
    for replica in range(len(view.available)):
        prompts = view.ledger[replica, AWAITING_TOKENS] + view.arrival[ARRIVAL_PROMPT]
        outputs = max(view.ledger[replica, OUTSTANDING] * output - view.ledger[replica, STREAMED_TOKENS], 0.0) + output
        # DECODE_SECONDS is for a batch of 16.
        decode = view.hardware[replica, DECODE_SECONDS] / 16.0
        scores[replica] = prompts * view.hardware[replica, PREFILL_SECONDS] + outputs * decode
    chosen = least(scores, view.available, int(memory[0]))
    memory[0] = chosen
    return chosen


@GLOBAL_SCHEDULERS.register("backlog_time")
class BacklogTimeScheduler(KernelScheduler):
    choose = staticmethod(choose_backlog_time)
    observes = 2

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, BacklogTimeGlobalSchedulerConfig)
        return cls(context, np.array([-1.0, config.expected_output_tokens]))
