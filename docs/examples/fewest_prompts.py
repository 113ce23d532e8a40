"""Two routers of one's own with one rule: the fewest prompt tokens that still wait for their first token.

python -m vidur.main --global_scheduler_config_type docs/examples/fewest_prompts.py:FewestPrompts
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vidur.observation import AWAITING_TOKENS, OUTSTANDING, SPEED, ClusterObservation, Floats, View
from vidur.scheduler.routers import GlobalScheduler, KernelScheduler, RouterContext


class FewestPrompts(GlobalScheduler):
    """In plain Python: any library, any state.

    `options` is what --custom_global_scheduler_config_options gives: {"per_request": 100} counts a request as 100 more.
    """

    def __init__(self, options: dict[str, Any], context: RouterContext) -> None:
        self._per_request = float(options.get("per_request", 0.0))
        self._rng = context.rng

    def schedule(self, observation: ClusterObservation) -> int:
        outstanding = observation.ledger[:, OUTSTANDING]
        waiting = observation.ledger[:, AWAITING_TOKENS] + self._per_request * outstanding
        scores = np.where(observation.available, waiting / observation.hardware[:, SPEED], np.inf)
        equals = np.flatnonzero(scores == scores.min())
        return int(self._rng.choice(equals))


def choose(view: View, memory: Floats, draws: Floats) -> int:
    """The same as a kernel. memory: the last choice, so that equals take turns."""
    ledger, hardware = view.ledger, view.hardware
    best = -1
    count = len(view.available)
    for step in range(1, count + 1):
        replica = (int(memory[0]) + step) % count
        score = ledger[replica, AWAITING_TOKENS] / hardware[replica, SPEED]
        if view.available[replica] and (best < 0 or score < ledger[best, AWAITING_TOKENS] / hardware[best, SPEED]):
            best = replica
    memory[0] = best
    return best


class CompiledFewestPrompts(KernelScheduler):
    """Compiled into the simulation, which then needs no Python for a decision."""

    choose = staticmethod(choose)

    def __init__(self, options: dict[str, Any], context: RouterContext) -> None:
        super().__init__(context)
