"""The weights of the policy network, and inference with NumPy alone."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rl.router import scores as layout
from rl.router.features import (
    G_BETA,
    I_BACKLOG,
    I_BACKLOG_BACKLOG,
    I_INTERFERENCE,
    I_KV_EXCESS,
    I_LOAD,
    I_LOAD_LOAD,
    LOAD_KNEE,
    ttft_weight,
)
from vidur.observation import Floats

# For `bounded_products`: interactions whose weight stays negative, the greatest weight of load_load relative to that of
# load, and the range of beta in which these bounds hold.
_REPELLING = [I_BACKLOG, I_INTERFERENCE, I_LOAD, I_BACKLOG_BACKLOG, I_KV_EXCESS]
_MOST_LOAD_LOAD = 0.9 / (2.0 * LOAD_KNEE)
_BETAS = 1.0, 50.0


@dataclass(frozen=True)
class PolicyWeights:
    """The weights of the network of rl.router.scores.

    replica [F, H1], context [G, H1], pooled [3 F, H1], bias_1 [H1], hidden [H1, H2], bias_2 [H2], score [H2],
    products [I], products_by_beta [I], for F features of a replica, I interactions, G features of the context, and
    H1 and H2 hidden units.
    """

    replica: Floats
    context: Floats
    pooled: Floats
    bias_1: Floats
    hidden: Floats
    bias_2: Floats
    score: Floats
    products: Floats
    products_by_beta: Floats

    def __post_init__(self) -> None:
        for name in ("replica", "hidden"):
            if getattr(self, name).ndim != 2:
                raise ValueError(f"policy weights: {name} is not a matrix")
        features, first = self.replica.shape
        second = self.hidden.shape[1]
        expected = {
            "context": (len(self.context), first),
            "pooled": (3 * features, first),
            "bias_1": (first,),
            "hidden": (first, second),
            "bias_2": (second,),
            "score": (second,),
            "products": (len(self.products),),
            "products_by_beta": (len(self.products),),
        }
        for name, shape in expected.items():
            actual = getattr(self, name).shape
            if actual != shape:
                raise ValueError(f"policy weights: {name} is {actual}, not {shape}")

    @property
    def used(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which features the network uses, plain or pooled: bool[F] of a replica, bool[G] of the context."""
        kinds = np.concatenate([self.replica[None], self.pooled.reshape(3, *self.replica.shape)])
        return (kinds != 0.0).any(axis=(0, 2)), (self.context != 0.0).any(axis=1)

    def memory(self, beta: float, samples: bool) -> Floats:
        """Return the router's memory (rl.router.scores): a head of sizes and settings, then the weights, flat."""
        head = np.zeros(layout.HEAD)
        head[layout.LAST] = -1.0
        head[layout.SAMPLES] = float(samples)
        head[layout.BETA] = beta
        head[layout.FEATURES], head[layout.HIDDEN_1] = self.replica.shape
        head[layout.CONTEXT_SIZE] = len(self.context)
        head[layout.HIDDEN_2] = len(self.bias_2)
        head[layout.PRODUCTS] = len(self.products)
        return np.concatenate([head, *(getattr(self, field.name).ravel() for field in fields(self))])

    def folded(self, normaliser: Normaliser) -> PolicyWeights:
        """Return weights that score raw features as these score normalised ones."""
        replica = self.replica / normaliser.replica_std[:, None]
        context = self.context / normaliser.context_std[:, None]
        pooled = self.pooled / np.tile(normaliser.replica_std, 3)[:, None]
        bias = self.bias_1 - normaliser.shift(replica, context, pooled)
        return dataclasses.replace(self, replica=replica, context=context, pooled=pooled, bias_1=bias)

    def unfolded(self, normaliser: Normaliser) -> PolicyWeights:
        """Return the weights that `folded` turned into these."""
        bias = self.bias_1 + normaliser.shift(self.replica, self.context, self.pooled)
        replica = self.replica * normaliser.replica_std[:, None]
        context = self.context * normaliser.context_std[:, None]
        pooled = self.pooled * np.tile(normaliser.replica_std, 3)[:, None]
        return dataclasses.replace(self, replica=replica, context=context, pooled=pooled, bias_1=bias)


def bounded_products(products: Floats, by_beta: Floats) -> tuple[Floats, Floats]:
    """Bound the weights of the interactions, [I] each, so that load alone lowers a replica's score.

    At every beta from 1 to 50 the weights of load, backlog, interference and a full KV-cache are at most 0, and
    load_load, which grows at most 2 LOAD_KNEE times as fast as load_linear, never outweighs load. Products with prompt
    sizes are not changed. Outside the training range, some hundred requests, a positive weight on load, however small,
    would send every request to the busiest replica.
    """
    low, high = (math.log1p(ttft_weight(beta)) for beta in _BETAS)
    ends = np.stack([products + low * by_beta, products + high * by_beta])
    bounded = ends.copy()
    bounded[:, _REPELLING] = np.minimum(bounded[:, _REPELLING], 0.0)
    bounded[:, I_LOAD_LOAD] = np.minimum(bounded[:, I_LOAD_LOAD], -_MOST_LOAD_LOAD * bounded[:, I_LOAD])
    changed = (bounded != ends).any(axis=0)
    slope = (bounded[1] - bounded[0]) / (high - low)
    return np.where(changed, bounded[0] - low * slope, products), np.where(changed, slope, by_beta)


@dataclass(frozen=True)
class Normaliser:
    """The statistics, [F] and [G], with which a policy normalises a feature x to (x - mean) / std."""

    replica_mean: Floats
    replica_std: Floats
    context_mean: Floats
    context_std: Floats

    def shift(self, replica: Floats, context: Floats, pooled: Floats) -> Floats:
        """Return [H1]: what the means add to the first layer, by weights on raw features."""
        shift: Floats = self.replica_mean @ replica + self.context_mean @ context
        return shift + np.tile(self.replica_mean, 3) @ pooled


class NumpyPolicy:
    """Score replicas from raw features with NumPy.

    seen: the row [context, pooled, 1] of the last call. The cost is the number of NumPy operations, twice as much on
    strided memory: so replicas are the last axis, a bias is a column of the weights, and buffers are reused.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._weights = weights
        features, size = len(weights.replica), len(weights.context)
        # [context, pooled, 1] @ self._shared is the part of the first layer that all replicas share.
        self._shared = np.concatenate([weights.context, weights.pooled, weights.bias_1[None]])
        self._first = np.ascontiguousarray(weights.replica.T)
        self._second = np.concatenate([weights.hidden, weights.bias_2[None]]).T.copy()
        self.seen = np.ones(len(self._shared))
        self._context = self.seen[:size]
        self._mean, self._least, self._greatest = self.seen[size:-1].reshape(3, features)
        self._base = np.empty((len(weights.bias_1), 1))
        self._beta = np.nan
        self._products = weights.products
        self._allocate(0)

    def _allocate(self, replicas: int) -> None:
        second, first = self._second.shape
        self._replicas = replicas
        self._hidden_1, self._hidden_2 = np.ones((first, replicas)), np.empty((second, replicas))
        self._units = self._hidden_1[:-1]
        self._plain = np.empty((replicas, len(self._mean)))

    def scores(self, x: Floats, context: Floats, available: NDArray[np.bool_]) -> Floats:
        """Return float64[replicas], -inf where unavailable, for x float64[replicas, F + I] and context float64[G]."""
        features = len(self._mean)
        if len(x) != self._replicas:
            self._allocate(len(x))
        if context[G_BETA] != self._beta:
            self._beta = float(context[G_BETA])
            self._products = self._weights.products + self._weights.products_by_beta * self._beta
        rows, seen = x.T, self._plain
        seen[:] = x[:, :features]
        all_available = bool(np.logical_and.reduce(available))
        if not all_available:
            seen = seen[available]
        self._context[:] = context
        np.add.reduce(seen, out=self._mean)
        np.multiply(self._mean, 1.0 / len(seen), self._mean)
        np.minimum.reduce(seen, out=self._least)
        np.maximum.reduce(seen, out=self._greatest)
        units, second = self._units, self._hidden_2
        np.dot(self._first, rows[:features], units)
        np.dot(self.seen, self._shared, self._base[:, 0])
        np.add(units, self._base, units)
        np.maximum(units, 0.0, out=units)
        np.dot(self._second, self._hidden_1, second)
        np.maximum(second, 0.0, out=second)
        scores: Floats = np.dot(self._weights.score, second)
        np.add(scores, np.dot(self._products, rows[features:]), scores)
        if not all_available:
            scores[~available] = -np.inf
        return scores
