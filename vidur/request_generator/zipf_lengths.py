"""Zipf-distributed whole numbers by the method of Gray et al., 'Quickly generating billion-record synthetic databases'
(SIGMOD 1994), with upstream's two deviations: its sums of the series end one term early, and one is guarded by 1e-8."""

from __future__ import annotations

import zlib

import numpy as np

from vidur.request_generator.random_streams import numpy_random
from vidur.request_generator.request_table import IntArray


def draw_zipf(count: int, low: int, high: int, theta: float, seed: int) -> IntArray:
    """`count` numbers in [low, high]; the lower, the more frequent. `theta` is the skew, not 1."""
    items = high - low + 1
    ranks = np.arange(1, items, dtype=np.float64)
    series = float(np.sum(1.0 / np.power(ranks, theta)))
    alpha = 1.0 / (1.0 - theta)
    eta = (1.0 - (2.0 / items) ** (1.0 - theta)) / (1.0 - 1.0 / (series + 1e-8))
    uniform = numpy_random(seed).random_sample(count)
    # Where u * series is below 1 + 0.5**theta the answer is low or low + 1, and the power may be of a negative number.
    base = np.maximum(eta * uniform - eta + 1.0, 1e-300)
    rank = np.minimum(items * np.power(base, alpha), items - 1).astype(np.int64)
    rank[uniform * series < 1.0 + 0.5**theta] = 1
    rank[uniform * series < 1.0] = 0
    return np.asarray(low + rank)


def scramble(values: IntArray, low: int, high: int, seed: int) -> IntArray:
    """Each value moved to a place in [low, high] that depends on it and the seed alone: equal values stay equal.

    Upstream takes Python's `hash` of a text, which differs between processes; this is a CRC-32.
    """
    distinct, where = np.unique(values, return_inverse=True)
    places = np.array([zlib.crc32(f"{value},{seed}".encode()) for value in distinct.tolist()], dtype=np.int64)
    moved: IntArray = (low + places % (high - low + 1))[where]
    return moved
