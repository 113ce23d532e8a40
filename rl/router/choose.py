"""The learned router as one kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl.router.features import CONTEXT, FACTS, derive_facts, encode_state
from rl.router.scores import BETA, FEATURES, LAST, PRODUCTS, SAMPLES, sample, score
from vidur.scheduler.global_scheduler.choice import least
from vidur.scheduler.observation import Floats


def choose_ppo(
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
    """The replica of the highest score, equals in turns; or one at random by the policy's probabilities.

    memory: see rl.router.scores.
    """
    x = np.empty((int(memory[FEATURES] + memory[PRODUCTS]), len(available)))
    facts = np.empty((FACTS, len(available)))
    context = np.empty(CONTEXT)
    scores = np.empty(len(available))
    derive_facts(hardware, facts)
    encode_state(ledger, gauges, facts, arrival, completions, memory[BETA], available.sum(), x, context)
    score(x, context, available, memory, scores)
    if memory[SAMPLES] > 0.0:
        return sample(scores, draws[0])
    replica = least(-scores, available, int(memory[LAST]))
    memory[LAST] = replica
    return replica
