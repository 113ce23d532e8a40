"""What the kernels of several routers share.

Plain Python in the subset that Numba compiles; vidur.scheduler.compiled makes these known to Numba.
"""

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

# How many completions the prior expectation of output lengths weighs as much as.
PRIOR_WEIGHT = 20.0


def least(scores: Floats, allowed: NDArray[np.int64], last: int) -> int:
    """The allowed replica with the smallest score; among equals the first after `last`, so that they take turns."""
    best = -1
    # Two passes in place of a remainder for each replica, which would cost more than the comparison.
    for replica in range(last + 1, len(scores)):
        if allowed[replica] and (best < 0 or scores[replica] < scores[best]):
            best = replica
    for replica in range(min(last + 1, len(scores))):
        if allowed[replica] and (best < 0 or scores[replica] < scores[best]):
            best = replica
    return best


def expected_output(completions: Floats, prior: float) -> float:
    """Mean output tokens of what has completed, with a prior that fades."""
    total = PRIOR_WEIGHT * prior + completions[COMPLETED_OUTPUT]
    return total / (PRIOR_WEIGHT + completions[COMPLETED_COUNT])  # type: ignore[no-any-return]


def token_backlog(
    ledger: Floats, hardware: Floats, arrival: Floats, completions: Floats, prior: float, scores: Floats
) -> None:
    """Into `scores`: the tokens that each replica owes with the arrival added, divided by its speed."""
    output = expected_output(completions, prior)
    for replica in range(len(scores)):
        tokens = ledger[replica, PROMPT_TOKENS] + ledger[replica, OUTSTANDING] * output
        scores[replica] = (tokens + arrival[ARRIVAL_PROMPT] + output) / hardware[replica, SPEED]
