"""Draw Zipf-distributed integers (Gray et al., 'Quickly generating billion-record synthetic databases', SIGMOD 1994).

Two deviations are upstream's: sums of the series end one term early, and 1e-8 guards a division."""

from __future__ import annotations

import zlib

import numpy as np

from vidur.request_generator.random_streams import numpy_random
from vidur.request_generator.request_table import IntArray


def draw_zipf(count: int, low: int, high: int, theta: float, seed: int) -> IntArray:
    """Draw `count` integers in [low, high], lower ones more often. theta: the skew, not 1."""
    items = high - low + 1
    ranks = np.arange(1, items, dtype=np.float64)
    series = float(np.sum(1.0 / np.power(ranks, theta)))
    alpha = 1.0 / (1.0 - theta)
    eta = (1.0 - (2.0 / items) ** (1.0 - theta)) / (1.0 - 1.0 / (series + 1e-8))
    uniform = numpy_random(seed).random_sample(count)
    # Below 1 + 0.5**theta the result is low or low + 1, and the base of the power may be negative.
    base = np.maximum(eta * uniform - eta + 1.0, 1e-300)
    rank = np.minimum(items * np.power(base, alpha), items - 1).astype(np.int64)
    rank[uniform * series < 1.0 + 0.5**theta] = 1
    rank[uniform * series < 1.0] = 0
    return np.asarray(low + rank)


def scramble(values: IntArray, low: int, high: int, seed: int) -> IntArray:
    """Map each value into [low, high] by a hash of it and the seed; equal values stay equal.

    Upstream uses Python's `hash` of a string, which differs between processes; this is a CRC-32.
    """
    distinct, where = np.unique(values, return_inverse=True)
    places = np.array([zlib.crc32(f"{value},{seed}".encode()) for value in distinct.tolist()], dtype=np.int64)
    moved: IntArray = (low + places % (high - low + 1))[where]
    return moved
