"""Score replicas with the policy network.

    h1 = relu(x A + context C + pooled D + a),  h2 = relu(h1 B + b),  score = h2 w + i (u + v beta)

x: a replica's features; i: its interactions; beta: the context's feature G_BETA; pooled: mean, least and greatest of x
over the available replicas. The normaliser is folded into the weights, which lie in one flat array, the router's
memory, in the order A C D a B b w u v after a head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl.router.features import G_BETA
from vidur.observation import Floats

# The head: the last choice, 1 for sampling, beta, and sizes: features, context, both hidden layers, interactions.
LAST, SAMPLES, BETA, FEATURES, CONTEXT_SIZE, HIDDEN_1, HIDDEN_2, PRODUCTS = range(8)
HEAD = 8


def pool(x: Floats, features: int, available: NDArray[np.int64], out: Floats) -> None:
    """Write mean, least and greatest of x's first rows over the available replicas into `out` [3 * features]."""
    for row in range(features):
        count = 0
        total = least = greatest = 0.0
        for replica in range(x.shape[1]):
            if not available[replica]:
                continue
            value = x[row, replica]
            least = value if count == 0 else min(least, value)
            greatest = value if count == 0 else max(greatest, value)
            total += value
            count += 1
        out[row] = total / count
        out[features + row] = least
        out[2 * features + row] = greatest


def score(x: Floats, context: Floats, available: NDArray[np.int64], memory: Floats, scores: Floats) -> None:
    """Write the policy's scores into `scores`, float64[replicas], -inf where unavailable.

    x: float64[features, replicas]. Each inner loop adds a multiple of a row of weights, which Numba vectorises.
    """
    features, size, products = int(memory[FEATURES]), int(memory[CONTEXT_SIZE]), int(memory[PRODUCTS])
    first, second = int(memory[HIDDEN_1]), int(memory[HIDDEN_2])
    pooled = np.empty(3 * features)
    pool(x, features, available, pooled)
    base = np.empty(first)
    hidden_1 = np.empty(first)
    hidden_2 = np.empty(second)
    at_a = HEAD
    at_c = at_a + features * first
    at_d = at_c + size * first
    at_bias = at_d + 3 * features * first
    at_b = at_bias + first
    at_bias_2 = at_b + first * second
    at_w = at_bias_2 + second
    at_u = at_w + second
    at_v = at_u + products
    base[:] = memory[at_bias : at_bias + first]
    for row in range(size):
        value = context[row]
        weights = memory[at_c + row * first : at_c + (row + 1) * first]
        for unit in range(first):
            base[unit] += value * weights[unit]
    for row in range(3 * features):
        value = pooled[row]
        weights = memory[at_d + row * first : at_d + (row + 1) * first]
        for unit in range(first):
            base[unit] += value * weights[unit]
    for replica in range(len(scores)):
        if not available[replica]:
            scores[replica] = -np.inf
            continue
        hidden_1[:] = base
        for row in range(features):
            value = x[row, replica]
            weights = memory[at_a + row * first : at_a + (row + 1) * first]
            for unit in range(first):
                hidden_1[unit] += value * weights[unit]
        hidden_2[:] = memory[at_bias_2 : at_bias_2 + second]
        for row in range(first):
            value = hidden_1[row]
            if value > 0.0:
                weights = memory[at_b + row * second : at_b + (row + 1) * second]
                for unit in range(second):
                    hidden_2[unit] += value * weights[unit]
        total = 0.0
        for unit in range(second):
            if hidden_2[unit] > 0.0:
                total += hidden_2[unit] * memory[at_w + unit]
        for row in range(products):
            total += x[features + row, replica] * (memory[at_u + row] + memory[at_v + row] * context[G_BETA])
        scores[replica] = total


def sample(scores: Floats, draw: float) -> int:
    """Sample a replica with the probabilities softmax(scores) by a uniform draw in [0, 1)."""
    greatest = scores.max()
    total = 0.0
    for replica in range(len(scores)):
        total += np.exp(scores[replica] - greatest)
    left = draw * total
    chosen = -1
    for replica in range(len(scores)):
        if scores[replica] == -np.inf:
            continue
        chosen = replica
        left -= np.exp(scores[replica] - greatest)
        if left < 0.0:
            break
    return chosen


def log_probability(scores: Floats, replica: int) -> float:
    """Return log softmax(scores)[replica]."""
    greatest = scores.max()
    total = 0.0
    for other in range(len(scores)):
        total += np.exp(scores[other] - greatest)
    return scores[replica] - greatest - np.log(total)  # type: ignore[no-any-return]
