"""The policy network's weights and its inference in NumPy: no torch, no numba."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rl.kernels import scores as layout
from vidur.scheduler.observation import Floats


@dataclass(frozen=True)
class PolicyWeights:
    """The network of rl.kernels.scores. F features of a replica, G of the context, H1 and H2 hidden units.

    replica [F, H1], context [G, H1], pooled [3 F, H1], bias_1 [H1], hidden [H1, H2], bias_2 [H2], score [H2].
    """

    replica: Floats
    context: Floats
    pooled: Floats
    bias_1: Floats
    hidden: Floats
    bias_2: Floats
    score: Floats

    def __post_init__(self) -> None:
        features, first = self.replica.shape
        second = self.hidden.shape[1]
        expected = {
            "context": (len(self.context), first),
            "pooled": (3 * features, first),
            "bias_1": (first,),
            "hidden": (first, second),
            "bias_2": (second,),
            "score": (second,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"policy weights: {name} is {found}, not {shape}")

    def memory(self, beta: float, samples: bool) -> Floats:
        """The router's memory (rl.kernels.scores): a head of sizes and settings, then the weights, flat."""
        head = np.zeros(layout.HEAD)
        head[layout.LAST] = -1.0
        head[layout.SAMPLES] = float(samples)
        head[layout.BETA] = beta
        head[layout.FEATURES], head[layout.HIDDEN_1] = self.replica.shape
        head[layout.CONTEXT_SIZE] = len(self.context)
        head[layout.HIDDEN_2] = len(self.bias_2)
        return np.concatenate([head, *(getattr(self, field.name).ravel() for field in fields(self))])

    def normalised(self, replica_mean: Floats, replica_std: Floats, context_mean: Floats, context_std: Floats) -> (
        PolicyWeights
    ):  # fmt: skip
        """Weights that give, for raw features, what these give for (x - mean) / std."""
        pooled_mean, pooled_std = np.tile(replica_mean, 3), np.tile(replica_std, 3)
        replica = self.replica / replica_std[:, None]
        context = self.context / context_std[:, None]
        pooled = self.pooled / pooled_std[:, None]
        bias = self.bias_1 - replica_mean @ replica - context_mean @ context - pooled_mean @ pooled
        return PolicyWeights(replica, context, pooled, bias, self.hidden, self.bias_2, self.score)


class NumpyPolicy:
    """Scores of replicas from raw features."""

    def __init__(self, weights: PolicyWeights) -> None:
        self._weights = weights

    def scores(self, x: Floats, context: Floats, available: NDArray[np.bool_]) -> Floats:
        """float64[replicas]: x float64[replicas, F], context float64[G]; -inf where a replica is not available."""
        weights = self._weights
        everyone = available.all()
        seen = x if everyone else x[available]
        pooled = np.concatenate(
            (np.add.reduce(seen) / len(seen), np.minimum.reduce(seen), np.maximum.reduce(seen))
        )
        base = context @ weights.context
        base += pooled @ weights.pooled
        base += weights.bias_1
        hidden = x @ weights.replica
        hidden += base
        np.maximum(hidden, 0.0, out=hidden)
        second = hidden @ weights.hidden
        second += weights.bias_2
        np.maximum(second, 0.0, out=second)
        scores: Floats = second @ weights.score
        if not everyone:
            scores[~available] = -np.inf
        return scores
