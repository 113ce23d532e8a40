"""Fewest prompt tokens that wait to be read, per speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.scheduler.global_scheduler.choice import least
from vidur.scheduler.observation import ARRIVAL_PROMPT, AWAITING_TOKENS, OUTSTANDING, SPEED, Floats


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


@GLOBAL_SCHEDULERS.register("fewest_prompts")
class FewestPromptsScheduler(KernelScheduler):
    choose = staticmethod(choose_fewest_prompts)
