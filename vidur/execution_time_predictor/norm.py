"""The norm that joins the terms of a roofline."""

from __future__ import annotations

import numpy as np

from vidur.execution_time_predictor.tables import FloatArray


def p_norm(q: float, *terms: FloatArray) -> FloatArray:
    """(a^q + b^q + ...)^(1/q) of non-negative terms, element by element; the larger q, the nearer to the largest."""
    largest = np.maximum.reduce(np.broadcast_arrays(*terms))
    if len(terms) == 1:
        return largest
    scale = np.where(largest > 0.0, largest, 1.0)
    total = sum(((term / scale) ** q for term in terms), start=np.zeros_like(largest))
    return scale * total ** (1.0 / q)
