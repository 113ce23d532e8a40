"""The policy network's weights and its inference in NumPy: no torch, no numba."""

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

# Of `bounded_products`: interactions that never attract, what load_load may take from the repulsion of load, and the
# range of beta in which this holds.
_REPELLING = [I_BACKLOG, I_INTERFERENCE, I_LOAD, I_BACKLOG_BACKLOG, I_KV_EXCESS]
_MOST_TAKEN = 0.9 / (2.0 * LOAD_KNEE)
_BETAS = 1.0, 50.0


@dataclass(frozen=True)
class PolicyWeights:
    """The network of rl.router.scores. F features of a replica, I interactions, G features of the context, H1 and H2
    hidden units.

    replica [F, H1], context [G, H1], pooled [3 F, H1], bias_1 [H1], hidden [H1, H2], bias_2 [H2], score [H2],
    products [I], products_by_beta [I].
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
                raise ValueError(f"policy weights: {name} is no matrix")
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
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"policy weights: {name} is {found}, not {shape}")

    @property
    def used(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """bool[F] and bool[G]: whether the network looks at a feature, itself or pooled, and at one of the context."""
        kinds = np.concatenate([self.replica[None], self.pooled.reshape(3, *self.replica.shape)])
        return (kinds != 0.0).any(axis=(0, 2)), (self.context != 0.0).any(axis=1)

    def memory(self, beta: float, samples: bool) -> Floats:
        """The router's memory (rl.router.scores): a head of sizes and settings, then the weights, flat."""
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
        """Weights that give, for raw features, what these give for normalised ones."""
        replica = self.replica / normaliser.replica_std[:, None]
        context = self.context / normaliser.context_std[:, None]
        pooled = self.pooled / np.tile(normaliser.replica_std, 3)[:, None]
        bias = self.bias_1 - normaliser.shift(replica, context, pooled)
        return dataclasses.replace(self, replica=replica, context=context, pooled=pooled, bias_1=bias)

    def unfolded(self, normaliser: Normaliser) -> PolicyWeights:
        """The inverse of `folded`."""
        bias = self.bias_1 + normaliser.shift(self.replica, self.context, self.pooled)
        replica = self.replica * normaliser.replica_std[:, None]
        context = self.context * normaliser.context_std[:, None]
        pooled = self.pooled * np.tile(normaliser.replica_std, 3)[:, None]
        return dataclasses.replace(self, replica=replica, context=context, pooled=pooled, bias_1=bias)


def bounded_products(products: Floats, by_beta: Floats) -> tuple[Floats, Floats]:
    """The weights of the interactions [I], `products` and `products_by_beta`, brought to where, at every beta from 1 to
    50, load, backlog, interference and want of memory by themselves repel: load at any number of requests, as load_load
    grows at most 2 LOAD_KNEE times as fast as load_linear. Products with the sizes of prompts are left as they are.

    Training sees loads up to some hundred requests. What attracts beyond, if ever so little, sends everything to the
    fullest replica where there are more.
    """
    low, high = (math.log1p(ttft_weight(beta)) for beta in _BETAS)
    ends = np.stack([products + low * by_beta, products + high * by_beta])
    held = ends.copy()
    held[:, _REPELLING] = np.minimum(held[:, _REPELLING], 0.0)
    held[:, I_LOAD_LOAD] = np.minimum(held[:, I_LOAD_LOAD], -_MOST_TAKEN * held[:, I_LOAD])
    changed = (held != ends).any(axis=0)
    slope = (held[1] - held[0]) / (high - low)
    return np.where(changed, held[0] - low * slope, products), np.where(changed, slope, by_beta)


@dataclass(frozen=True)
class Normaliser:
    """Statistics of the features that a policy was trained on: a feature x becomes (x - mean) / std. [F] and [G]."""

    replica_mean: Floats
    replica_std: Floats
    context_mean: Floats
    context_std: Floats

    def shift(self, replica: Floats, context: Floats, pooled: Floats) -> Floats:
        """[H1]: what the means come to through weights on raw features."""
        shift: Floats = self.replica_mean @ replica + self.context_mean @ context
        return shift + np.tile(self.replica_mean, 3) @ pooled


class NumpyPolicy:
    """Scores of replicas from raw features. seen: the row [context, pooled, 1] of the last call.

    The number of NumPy operations is the cost, not that of sums, and an operation on what lies apart in memory costs
    twice as much: so replicas are the last axis, a bias is a column of weights, and what is written to is kept from
    call to call.
    """

    def __init__(self, weights: PolicyWeights) -> None:
        self._weights = weights
        features, size = len(weights.replica), len(weights.context)
        # [context, pooled, 1] @ this is what all replicas share.
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
        """float64[replicas]: x float64[replicas, F + I], context float64[G]; -inf where a replica is not available."""
        features = len(self._mean)
        if len(x) != self._replicas:
            self._allocate(len(x))
        if context[G_BETA] != self._beta:
            self._beta = float(context[G_BETA])
            self._products = self._weights.products + self._weights.products_by_beta * self._beta
        rows, seen = x.T, self._plain
        seen[:] = x[:, :features]
        everyone = bool(np.logical_and.reduce(available))
        if not everyone:
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
        if not everyone:
            scores[~available] = -np.inf
        return scores
