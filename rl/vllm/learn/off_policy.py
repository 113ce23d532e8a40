"""Estimate what a policy would have cost on decisions that another policy made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidur.bootstrap import percentile_interval, resampled_counts
from vidur.observation import Floats


@dataclass(frozen=True)
class PolicyEstimate:
    """The mean outcomes of two policies.

    low, high: a 95 % interval of the relative change from old to new. effective: the effective sample size of the new.
    """

    old: float
    new: float
    low: float
    high: float
    effective: float

    @property
    def change(self) -> float:
        return self.new / self.old - 1.0


def compare_policies(
    old: Floats,
    new: Floats,
    actions: NDArray[np.int64],
    propensities: Floats,
    outcomes: Floats,
    predicted: Floats,
    blocks: NDArray[np.int64],
    rng: np.random.Generator,
) -> PolicyEstimate:
    """Compare two policies by doubly robust estimates (Dudik et al., 2011).

    The correction has self-normalised importance weights (Swaminathan and Joachims, 2015). The interval is from a
    bootstrap of whole blocks, as decisions near in time are correlated; both policies share the resamples.

    old, new: float64[N, R], the policies' probabilities. propensities: float64[N], above 0, of `actions`. outcomes:
    float64[N] of the actions. predicted: float64[N, R] by a model fitted on other decisions. blocks: int64[N], from 0.
    """
    rows = np.arange(len(actions))
    residuals = outcomes - predicted[rows, actions]
    count = int(blocks.max()) + 1

    def by_block(values: Floats) -> Floats:
        return np.bincount(blocks, values, count).astype(np.float64)

    sizes = by_block(np.ones(len(actions)))
    sums = []
    for policy in (old, new):
        weights = policy[rows, actions] / propensities
        direct = (policy * predicted).sum(1)
        sums.append(np.stack([by_block(direct), by_block(weights * residuals), by_block(weights)]))

    def value(policy: Floats, times: Floats) -> Floats:
        """Return estimates [resamples] from sums [3, blocks] and counts of the blocks [resamples, blocks]."""
        direct, correction, weights = times @ policy.T[:, 0], times @ policy.T[:, 1], times @ policy.T[:, 2]
        corrected: Floats = direct / (times @ sizes) + correction / np.maximum(weights, 1e-9)
        return corrected

    drawn = resampled_counts(count, rng)
    changes = value(sums[1], drawn) / value(sums[0], drawn) - 1.0
    low, high = percentile_interval(changes)
    all_once = np.ones((1, count))
    weights = new[rows, actions] / propensities
    return PolicyEstimate(
        old=float(value(sums[0], all_once)[0]),
        new=float(value(sums[1], all_once)[0]),
        low=low,
        high=high,
        effective=float(weights.sum() ** 2 / max((weights**2).sum(), 1e-9)),
    )
