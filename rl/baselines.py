"""The routers that the learned one is compared with: the simulator's, and more that know how fast replicas are."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidur.config import CustomGlobalSchedulerConfig
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.scheduler.global_scheduler import KernelScheduler, RouterContext
from vidur.scheduler.global_scheduler.base import ChooseKernel
from vidur.scheduler.global_scheduler.choice import expected_output, least
from vidur.scheduler.observation import (
    ARRIVAL_PROMPT,
    AWAITING_TOKENS,
    DECODE_SECONDS,
    OUTSTANDING,
    PREFILL_SECONDS,
    SPEED,
    STREAMED_TOKENS,
    Floats,
)


def choose_lor_by_speed(
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
    """The fewest outstanding requests, with the arrival, divided by the replica's speed. memory: the last choice."""
    replica = least((ledger[:, OUTSTANDING] + 1.0) / hardware[:, SPEED], available, int(memory[0]))
    memory[0] = replica
    return replica


def choose_fewest_prompts(
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
    """The fewest prompt tokens without a first token, with the arrival's, divided by the replica's speed; among equals
    the fewest outstanding requests. memory: the last choice."""
    waiting = (ledger[:, AWAITING_TOKENS] + arrival[ARRIVAL_PROMPT]) / hardware[:, SPEED]
    scores = waiting + 1e-6 * ledger[:, OUTSTANDING] / hardware[:, SPEED]
    replica = least(scores, available, int(memory[0]))
    memory[0] = replica
    return replica


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
    time that they take on the replica's hardware. memory: the last choice."""
    output = expected_output(completions, 256.0)
    scores = np.empty(len(available))
    for replica in range(len(available)):
        prompts = ledger[replica, AWAITING_TOKENS] + arrival[ARRIVAL_PROMPT]
        outputs = max(ledger[replica, OUTSTANDING] * output - ledger[replica, STREAMED_TOKENS], 0.0) + output
        decode = hardware[replica, DECODE_SECONDS] / 16.0
        scores[replica] = prompts * hardware[replica, PREFILL_SECONDS] + outputs * decode
    chosen = least(scores, available, int(memory[0]))
    memory[0] = chosen
    return chosen


class _Baseline(KernelScheduler):
    def __init__(self, options: dict[str, Any], context: RouterContext) -> None:
        super().__init__(context)


class LorBySpeed(_Baseline):
    choose: ChooseKernel = staticmethod(choose_lor_by_speed)


class FewestPrompts(_Baseline):
    choose: ChooseKernel = staticmethod(choose_fewest_prompts)


class BacklogTime(_Baseline):
    choose: ChooseKernel = staticmethod(choose_backlog_time)
    observes: ClassVar[int] = 2


SIZE_SPLIT, LEAST_TOKENS = "size_split", "least_tokens"
# Routers that know nothing of the replicas' load.
BLIND = ("round_robin", "random")
_SHIPPED = (*BLIND, "lor", LEAST_TOKENS, "power_of_two", "least_kv_cache", "weighted_round_robin", SIZE_SPLIT)
_MORE = {"lor_by_speed": LorBySpeed, "fewest_prompts": FewestPrompts, "backlog_time": BacklogTime}
# Every heuristic; size_split has to be tuned (rl.evaluation_tuning).
HEURISTICS = (*_SHIPPED, *_MORE)


def heuristic_config(name: str, **settings: Any) -> BaseGlobalSchedulerConfig:
    """The configuration of one of HEURISTICS."""
    if name in _MORE:
        return CustomGlobalSchedulerConfig(scheduler=f"{__name__}:{_MORE[name].__name__}")
    config = BaseGlobalSchedulerConfig.from_type(name)(**settings)
    assert isinstance(config, BaseGlobalSchedulerConfig)
    return config
