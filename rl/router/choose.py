"""The kernel by which the learned router chooses a replica."""

from __future__ import annotations

import numpy as np

from rl.router.features import CONTEXT, FACTS, derive_facts, encode_state
from rl.router.scores import BETA, FEATURES, LAST, PRODUCTS, SAMPLES, sample, score
from vidur.observation import Floats, View
from vidur.scheduler.routers.choice import least


def choose_ppo(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica with the highest score (ties take turns), or sample one with the policy's probabilities.

    memory: laid out as rl.router.scores says.
    """
    x = np.empty((int(memory[FEATURES] + memory[PRODUCTS]), len(view.available)))
    facts = np.empty((FACTS, len(view.available)))
    context = np.empty(CONTEXT)
    scores = np.empty(len(view.available))
    derive_facts(view.hardware, facts)
    encode_state(
        view.ledger, view.gauges, facts, view.arrival, view.completions, memory[BETA], view.available.sum(), x, context
    )
    score(x, context, view.available, memory, scores)
    if memory[SAMPLES] > 0.0:
        return sample(scores, draws[0])
    replica = least(-scores, view.available, int(memory[LAST]))
    memory[LAST] = replica
    return replica
