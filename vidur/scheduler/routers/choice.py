"""Functions that several routers' kernels share; vidur.scheduler.compiled registers them with Numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.observation import (
    ARRIVAL_PROMPT,
    COMPLETED_COUNT,
    COMPLETED_OUTPUT,
    OUTSTANDING,
    PROMPT_TOKENS,
    SPEED,
    Floats,
)

# The prior of output lengths counts as this many completions.
PRIOR_WEIGHT = 20.0


def least(scores: Floats, allowed: NDArray[np.int64], last: int) -> int:
    """Return the allowed replica with the smallest score; ties go to the first after `last`, to take turns."""
    best = -1
    # Two passes: a modulo for each replica would cost more than the comparison.
    for replica in range(last + 1, len(scores)):
        if allowed[replica] and (best < 0 or scores[replica] < scores[best]):
            best = replica
    for replica in range(min(last + 1, len(scores))):
        if allowed[replica] and (best < 0 or scores[replica] < scores[best]):
            best = replica
    return best


def expected_output(completions: Floats, prior: float) -> float:
    """Return the mean output tokens of completed requests, smoothed by a prior."""
    total = PRIOR_WEIGHT * prior + completions[COMPLETED_OUTPUT]
    return total / (PRIOR_WEIGHT + completions[COMPLETED_COUNT])  # type: ignore[no-any-return]


def token_backlog(
    ledger: Floats, hardware: Floats, arrival: Floats, completions: Floats, prior: float, scores: Floats
) -> None:
    """Set `scores` to each replica's outstanding tokens, including the arrival, divided by its speed."""
    output = expected_output(completions, prior)
    for replica in range(len(scores)):
        tokens = ledger[replica, PROMPT_TOKENS] + ledger[replica, OUTSTANDING] * output
        scores[replica] = (tokens + arrival[ARRIVAL_PROMPT] + output) / hardware[replica, SPEED]
