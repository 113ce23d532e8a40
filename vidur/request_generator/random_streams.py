"""Reproduce upstream's random streams as arrays and without global state."""

from __future__ import annotations

import random

import numpy as np


def python_random(seed: int) -> np.random.RandomState:
    """Return a generator whose `random_sample` gives the values of Python's `random.Random(seed).random()`.

    Both use the Mersenne Twister and differ only in seeding, so the state is copied.
    """
    *key, position = random.Random(seed).getstate()[1]
    state = np.random.RandomState(0)
    state.set_state(("MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0))
    return state


def numpy_random(seed: int) -> np.random.RandomState:
    """Return the generator that upstream uses after `numpy.random.seed(seed)`."""
    return np.random.RandomState(seed)
