"""Compute the cost of a placement, the objective that the policy minimises.

The cost is the growth, by the placement, of sum(E2E) + w * sum(TTFT) + w^2 * sum(TTFT^2) / tail over all requests, with
w = 10 (beta / 10)^1.4, divided by the usual cost of a request: so it is of order 1 on any hardware and for most betas.
The square weighs the tail of TTFT, more so as beta grows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl.router.features import ttft_weight
from vidur.engine.foresight import COST_E2E, COST_PARTS, COST_TTFT, COST_TTFT_SQUARED
from vidur.observation import Floats

# In decode iterations: the usual E2E of a request, and w times the TTFT whose square weighs as much as TTFT itself.
# A w of 1 / _WEIGHT doubles the unit of a cost.
_REQUEST = 200.0
_TAIL = 2000.0
_WEIGHT = 0.1


def cost_weights(beta: float, time_unit: float) -> Floats:
    """Return the weights of vidur.engine.foresight's parts, float64[COST_PARTS].

    time_unit: seconds of a decode iteration.
    """
    weights = np.zeros(COST_PARTS)
    weights[COST_E2E] = 1.0
    weight = ttft_weight(beta)
    weights[COST_TTFT] = weight
    weights[COST_TTFT_SQUARED] = weight**2 / (_TAIL * time_unit)
    return weights / (_REQUEST * time_unit * (1.0 + _WEIGHT * weight))


def costs_of(parts: NDArray[np.float64], beta: float, time_unit: float) -> Floats:
    """Return the costs [...] of parts [..., COST_PARTS]."""
    costs: Floats = parts @ cost_weights(beta, time_unit)
    return costs


def episode_cost(ttft: Floats, e2e: Floats, beta: float, time_unit: float) -> float:
    """Return the mean cost of the completed requests. ttft, e2e: seconds, nan for the others."""
    ttft, e2e = ttft[~np.isnan(e2e)], e2e[~np.isnan(e2e)]
    parts = np.zeros((len(ttft), COST_PARTS))
    parts[:, COST_E2E], parts[:, COST_TTFT], parts[:, COST_TTFT_SQUARED] = e2e, ttft, ttft**2
    return float(costs_of(parts, beta, time_unit).mean())
