"""What a placement costs, as one number: the objective that the policy minimises.

sum(E2E) + w * sum(TTFT) + w^2 * sum(TTFT^2) / tail, where w = 10 (beta / 10)^1.4: its growth by the placement, in units
of what requests cost anyway, so that a cost is of order 1 on any hardware and for most betas. The square makes the tail
of TTFT count, and more so as beta grows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl.router.features import ttft_weight
from vidur.engine.foresight import COST_E2E, COST_PARTS, COST_TTFT, COST_TTFT_SQUARED
from vidur.observation import Floats

# In decode iterations: what a request takes, about, and w times the TTFT whose square weighs as much as itself. A w of
# 1 / _WEIGHT doubles the unit of a cost.
_REQUEST = 200.0
_TAIL = 2000.0
_WEIGHT = 0.1


def cost_weights(beta: float, time_unit: float) -> Floats:
    """float64[COST_PARTS] for the parts of vidur.engine.foresight. time_unit: seconds of a decode iteration."""
    weights = np.zeros(COST_PARTS)
    weights[COST_E2E] = 1.0
    weight = ttft_weight(beta)
    weights[COST_TTFT] = weight
    weights[COST_TTFT_SQUARED] = weight**2 / (_TAIL * time_unit)
    return weights / (_REQUEST * time_unit * (1.0 + _WEIGHT * weight))


def costs_of(parts: NDArray[np.float64], beta: float, time_unit: float) -> Floats:
    """The costs of parts [..., COST_PARTS]."""
    costs: Floats = parts @ cost_weights(beta, time_unit)
    return costs


def episode_cost(ttft: Floats, e2e: Floats, beta: float, time_unit: float) -> float:
    """The mean cost of the requests that have ended, in the same units. ttft, e2e: seconds, nan for the others."""
    ttft, e2e = ttft[~np.isnan(e2e)], e2e[~np.isnan(e2e)]
    parts = np.zeros((len(ttft), COST_PARTS))
    parts[:, COST_E2E], parts[:, COST_TTFT], parts[:, COST_TTFT_SQUARED] = e2e, ttft, ttft**2
    return float(costs_of(parts, beta, time_unit).mean())
