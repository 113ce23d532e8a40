"""Upstream's random streams, in whole arrays and without global state."""

from __future__ import annotations

import random

import numpy as np


def python_random(seed: int) -> np.random.RandomState:
    """A generator whose `random_sample` gives the successive values of Python's `random.Random(seed).random()`.

    Both are the Mersenne Twister and make doubles of its words alike; only the seeding differs, so the state is copied.
    """
    *key, position = random.Random(seed).getstate()[1]
    state = np.random.RandomState(0)
    state.set_state(("MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0))
    return state


def numpy_random(seed: int) -> np.random.RandomState:
    """What upstream draws from after `numpy.random.seed(seed)`."""
    return np.random.RandomState(seed)
