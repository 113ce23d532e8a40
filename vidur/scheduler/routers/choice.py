"""Functions that several routers' kernels share; vidur.scheduler.compiled registers them with Numba."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vidur.observation import (
    ARRIVAL_PROMPT,
    COMPLETED_COUNT,
    COMPLETED_OUTPUT,
    MATCHED_TOKENS,
    OUTSTANDING,
    PROMPT_TOKENS,
    SPEED,
    Floats,
)

# What the field's routers take a token for when they index characters.
CHARACTERS_PER_TOKEN = 4
# The capacity of an index without a limit, in tokens.
UNLIMITED_TOKENS = 1 << 40

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


def least_at_random(scores: Floats, allowed: NDArray[np.int64], draw: float) -> int:
    """Return the allowed replica with the smallest score; `draw`, in [0, 1), chooses among the tied, all alike."""
    lowest, tied = 0.0, 0
    for replica in range(len(scores)):
        if allowed[replica]:
            if tied == 0 or scores[replica] < lowest:
                lowest, tied = scores[replica], 1
            elif scores[replica] == lowest:
                tied += 1
    left = int(draw * tied)
    for replica in range(len(scores)):
        if allowed[replica] and scores[replica] == lowest:
            if left == 0:
                return replica
            left -= 1
    return -1


def longest_matches(prefix: Floats, allowed: NDArray[np.int64], least_tokens: float) -> NDArray[np.int64]:
    """int64[replicas]: 1 for the allowed replicas with the most matched tokens, if more than `least_tokens`, else 0."""
    longest = np.zeros(len(allowed), np.int64)
    most = least_tokens
    for replica in range(len(allowed)):
        if allowed[replica]:
            most = max(most, prefix[replica, MATCHED_TOKENS])
    for replica in range(len(allowed)):
        if allowed[replica] and most > least_tokens and prefix[replica, MATCHED_TOKENS] == most:
            longest[replica] = 1
    return longest


def matched_share(prefix: Floats, replica: int, prompt: float, block: float) -> float:
    """Return the share of a prompt's blocks, the last and partial one included, that are cached on a replica."""
    return min(1.0, prefix[replica, MATCHED_TOKENS] / (max(math.ceil(prompt / block), 1) * block))  # type: ignore[no-any-return]


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
