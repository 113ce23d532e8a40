"""The norm that joins the terms of a roofline."""

from __future__ import annotations

import numpy as np

from vidur.execution_time_predictor.tables import FloatArray

# Replaces 0, whose logarithm is undefined; its 20th power is still a normal number.
SMALLEST_TERM = 1e-9


def p_norm(q: float, *terms: FloatArray) -> FloatArray:
    """Return (a^q + b^q + ...)^(1/q) of broadcast non-negative terms, q <= 20; a larger q is nearer to the maximum.

    Uses logarithms, because NumPy's exp and log are much faster than its power.
    """
    assert 1.0 <= q <= 20.0
    total = _power(terms[0], q)
    for term in terms[1:]:
        total = total + _power(term, q)
    np.log(total, out=total)
    total /= q
    return np.exp(total, out=total)


def _power(base: FloatArray, exponent: float) -> FloatArray:
    logarithm = np.log(np.maximum(base, SMALLEST_TERM))
    logarithm *= exponent
    return np.exp(logarithm, out=logarithm)
