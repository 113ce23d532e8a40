"""The policy network, for inference: a score for each replica.

    h1 = relu(x A + context C + pooled D + a),  h2 = relu(h1 B + b),  score = h2 w

x: a replica's features; pooled: their mean, least and greatest over the available replicas. The normaliser is folded
into the weights. `Layout` says where each part lies in one flat array, which is also the router's memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.scheduler.observation import Floats

# The head of the flat array: the last choice, 1 for sampling, beta, and sizes: features, context, both hidden layers.
LAST, SAMPLES, BETA, FEATURES, CONTEXT_SIZE, HIDDEN_1, HIDDEN_2 = range(7)
HEAD = 8


def pool(x: Floats, available: NDArray[np.int64], out: Floats) -> None:
    """Mean, least and greatest of each column of x over the available replicas, into `out`, float64[3 * features]."""
    features = x.shape[1]
    count = 0
    for replica in range(len(x)):
        if not available[replica]:
            continue
        count += 1
        for column in range(features):
            value = x[replica, column]
            if count == 1:
                out[column] = value
                out[features + column] = value
                out[2 * features + column] = value
            else:
                out[column] += value
                out[features + column] = min(out[features + column], value)
                out[2 * features + column] = max(out[2 * features + column], value)
    for column in range(features):
        out[column] /= count


def score(x: Floats, context: Floats, available: NDArray[np.int64], memory: Floats, scores: Floats) -> None:
    """Into `scores`, float64[replicas], the policy's scores; the unavailable get -inf. See the module.

    Loops, which Numba turns into vector instructions: each adds a multiple of a row of weights.
    """
    features, size = int(memory[FEATURES]), int(memory[CONTEXT_SIZE])
    first, second = int(memory[HIDDEN_1]), int(memory[HIDDEN_2])
    pooled = np.empty(3 * features)
    pool(x, available, pooled)
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
    for replica in range(len(x)):
        if not available[replica]:
            scores[replica] = -np.inf
            continue
        hidden_1[:] = base
        for row in range(features):
            value = x[replica, row]
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
        scores[replica] = total


def sample(scores: Floats, draw: float) -> int:
    """A replica with the probabilities softmax(scores), by a uniform draw in [0, 1)."""
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
    """log softmax(scores)[replica]."""
    greatest = scores.max()
    total = 0.0
    for other in range(len(scores)):
        total += np.exp(scores[other] - greatest)
    return scores[replica] - greatest - np.log(total)  # type: ignore[no-any-return]
