"""The bootstrap: estimate a statistic's variation by resampling the sample (Efron, 1979)."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
# Use all resamples of up to this many values, and this many random ones of more.
_ALL_RESAMPLES, _RESAMPLES = 5, 2000


@cache
def resampled_rows(count: int) -> NDArray[np.int64]:
    """int64[resamples, count]: the indices of each resample of `count` values; the same at every call."""
    if count <= _ALL_RESAMPLES:
        return np.array(list(itertools.product(range(count), repeat=count)))
    return np.random.default_rng(count).integers(0, count, (_RESAMPLES, count))


def resampled_counts(count: int, rng: np.random.Generator) -> Floats:
    """float64[resamples, count]: how often each resample has each of `count` values, or blocks of values."""
    return rng.multinomial(count, np.full(count, 1.0 / count), _RESAMPLES).astype(np.float64)


def percentile_interval(resampled: Floats) -> tuple[float, float]:
    """Return the central CONFIDENCE interval of a statistic's values over the resamples."""
    tail = (100.0 - 100.0 * CONFIDENCE) / 2.0
    low, high = np.percentile(resampled, (tail, 100.0 - tail))
    return float(low), float(high)
