"""Compute means and percentiles of values, optionally weighted."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Statistics: TypeAlias = "dict[str, float | None]"

PERCENTILES = (50, 90, 95, 99)


def statistics(values: NDArray[Any]) -> Statistics:
    """Return mean, p50, p90, p95, p99 and max of the values that are not nan; None if there are none.

    Percentiles interpolate linearly between order statistics, as numpy.percentile does by default.
    """
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return _statistics(None)
    quantiles = np.percentile(present, PERCENTILES)
    return _statistics([present.mean(), *quantiles, present.max()])


def weighted_statistics(values: NDArray[Any], counts: NDArray[Any]) -> Statistics:
    """Return the statistics of `values`, each repeated `counts` times (integers, at least 1)."""
    if len(values) == 0:
        return _statistics(None)
    if values.dtype.kind == "i" and values.min() >= 0 and values.max() < len(values):
        counts = np.bincount(values, counts).astype(np.int64)
        values = np.flatnonzero(counts)
        counts = counts[values]
    order = np.argsort(values, kind="stable")
    ordered, ends = values[order], np.cumsum(counts[order], dtype=np.int64)
    positions = (ends[-1] - 1) * np.array(PERCENTILES) / 100
    below = np.floor(positions).astype(np.int64)
    low = ordered[np.searchsorted(ends, below, side="right")]
    high = ordered[np.searchsorted(ends, np.ceil(positions).astype(np.int64), side="right")]
    quantiles = low + (high - low) * (positions - below)
    return _statistics([np.average(values, weights=counts), *quantiles, ordered[-1]])


def _statistics(numbers: list[Any] | None) -> Statistics:
    names = ["mean", *(f"p{percentile}" for percentile in PERCENTILES), "max"]
    return dict.fromkeys(names) if numbers is None else dict(zip(names, map(float, numbers), strict=True))
