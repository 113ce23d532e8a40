"""Non-negative least squares, for factors that are times."""

from __future__ import annotations

import numpy as np

from vidur.observation import Floats


def least_squares(matrix: Floats, values: Floats) -> Floats:
    """Return non-negative factors with matrix @ factors closest to `values` (Lawson and Hanson's algorithm)."""
    scale = np.sqrt((matrix**2).sum(axis=0))
    scale[scale == 0.0] = 1.0
    a = matrix / scale
    chosen = np.zeros(a.shape[1], np.bool_)
    x = np.zeros(a.shape[1])
    tolerance = 1e-9 * float(np.abs(a.T @ values).max(initial=0.0))
    for _ in range(10 * a.shape[1]):
        gradient = a.T @ (values - a @ x)
        gradient[chosen] = -np.inf
        if gradient.max() <= tolerance:
            break
        chosen[int(gradient.argmax())] = True
        while True:
            trial = np.zeros_like(x)
            trial[chosen] = np.linalg.lstsq(a[:, chosen], values, rcond=None)[0]
            negative = chosen & (trial <= 0.0)
            if not negative.any():
                break
            step = float((x[negative] / (x[negative] - trial[negative])).min())
            x += step * (trial - x)
            chosen &= x > 1e-15
            x[~chosen] = 0.0
        x = trial
    factors: Floats = x / scale
    return factors
