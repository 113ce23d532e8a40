"""Least outstanding work, in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.config.global_scheduler import BacklogTimeGlobalSchedulerConfig, BaseGlobalSchedulerConfig
from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.global_scheduler.choice import expected_output, least
from vidur.scheduler.observation import (
    ARRIVAL_PROMPT,
    AWAITING_TOKENS,
    DECODE_SECONDS,
    OUTSTANDING,
    PREFILL_SECONDS,
    STREAMED_TOKENS,
    Floats,
)


def choose_backlog_time(
    now: float,
    ledger: Floats,
    gauges: Floats,
    hardware: Floats,
    arrival: Floats,
    available: NDArray[np.int64],
    completions: Floats,
    memory: Floats,
    draws: Floats,
) -> int:
    """The fewest seconds of work owed, with the arrival: prompts to be read and output tokens expected, each by the
    time that they take on the replica's hardware. memory: last choice, prior of outputs."""
    output = expected_output(completions, memory[1])
    scores = np.empty(len(available))
    for replica in range(len(available)):
        prompts = ledger[replica, AWAITING_TOKENS] + arrival[ARRIVAL_PROMPT]
        outputs = max(ledger[replica, OUTSTANDING] * output - ledger[replica, STREAMED_TOKENS], 0.0) + output
        # DECODE_SECONDS is the time of 16 requests together.
        decode = hardware[replica, DECODE_SECONDS] / 16.0
        scores[replica] = prompts * hardware[replica, PREFILL_SECONDS] + outputs * decode
    chosen = least(scores, available, int(memory[0]))
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
