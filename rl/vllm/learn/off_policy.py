"""What a policy would have cost on the decisions of a log that another policy made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidur.bootstrap import percentile_interval, resampled_counts
from vidur.observation import Floats


@dataclass(frozen=True)
class PolicyEstimate:
    """Mean outcomes of two policies, and `low` and `high`: of the relative change from the old to the new, a 95 %
    interval; negative is less. effective: how many decisions the new one's weighted ones are worth."""

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
    """Doubly robust (Dudik et al., 2011), its correction with self-normalised importance weights (Swaminathan and
    Joachims, 2015); the interval by a bootstrap of whole blocks, for what is near in time is alike.

    old, new: float64[N, R], the probabilities of either policy. propensities: float64[N], with which `actions` were
    chosen, above 0. outcomes: float64[N] of these. predicted: float64[N, R], a model's, fitted on other decisions.
    blocks: int64[N], of each decision, from 0. Both policies are estimated on the same resamples.
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
        """[resamples] from sums [3, blocks] and how often each block is drawn, [resamples, blocks]."""
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
