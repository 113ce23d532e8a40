"""Fill a table by interpolation: all small arguments are evaluated, then powers of two and every 2 %."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vidur.execution_time_predictor.tables import FloatArray

# Curves have steps that interpolation would blur; surfaces are smooth and have many more points.
DENSE_CURVE_POINTS = 16384
DENSE_SURFACE_POINTS = 64
RATIO = 1.02


def sample_indices(length: int, dense_points: int) -> npt.NDArray[np.int64]:
    """Return ascending indices into an axis of this length, including the first and the last."""
    if length <= dense_points:
        return np.arange(length)
    count = int(np.ceil(np.log((length - 1) / (dense_points - 1)) / np.log(RATIO))) + 1
    sparse = np.rint(np.geomspace(dense_points - 1, length - 1, count)).astype(np.int64)
    powers = 2 ** np.arange(int(np.log2(length - 1)) + 1)
    return np.unique(np.concatenate((np.arange(dense_points), sparse, powers)))


def fill_curve(axis: FloatArray, evaluate: Callable[[int], float]) -> FloatArray:
    """Evaluate over the axis, interpolating linearly between evaluated points."""
    sampled = sample_indices(len(axis), DENSE_CURVE_POINTS)
    return np.asarray(np.interp(axis, axis[sampled], [evaluate(int(value)) for value in axis[sampled]]))


def fill_surface(rows: FloatArray, columns: FloatArray, evaluate: Callable[[int, int], float]) -> FloatArray:
    """Evaluate (row, column) over the product of the axes, interpolating bilinearly between evaluated points."""
    row_at, column_at = (sample_indices(len(axis), DENSE_SURFACE_POINTS) for axis in (rows, columns))
    values = np.array([[evaluate(int(row), int(column)) for column in columns[column_at]] for row in rows[row_at]])
    filled: FloatArray = _refine(_refine(values, row_at).T, column_at).T
    return filled


def _refine(values: FloatArray, sampled: npt.NDArray[np.int64]) -> FloatArray:
    """Interpolate all rows between those at the indices `sampled`."""
    if len(sampled) == 1:
        return values
    every = np.arange(sampled[-1] + 1)
    below = np.clip(np.searchsorted(sampled, every, side="right") - 1, 0, len(sampled) - 2)
    weight = ((every - sampled[below]) / (sampled[below + 1] - sampled[below]))[:, None]
    filled: FloatArray = values[below] * (1.0 - weight) + values[below + 1] * weight
    return filled
