"""Search the weights of the interactions by the cost of whole episodes, before PPO.

A policy that is linear in the interactions has few enough weights to try them out. So no credit is assigned to single
decisions, and a placement's effect on later requests counts in full. The search is the cross-entropy method
(Rubinstein, 1999); all candidates of an iteration replay the same episodes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

import rl.router.compiled  # noqa: F401
from rl.reward.cost import episode_cost
from rl.router.choose import choose_ppo
from rl.router.features import CONTEXT, I_BACKLOG, I_INTERFERENCE, I_LOAD, INTERACTIONS, feature_count
from rl.router.policy import PolicyWeights, bounded_products
from rl.train.config import SearchConfig
from rl.train.suite import Episode, TrainingSuite
from vidur.observation import Floats
from vidur.progress import Progress
from vidur.scheduler.routers.base import ChooseKernel
from vidur.scheduler.routers.least_tokens import choose_least_tokens

# A middle beta, at which the first half of a candidate gives the weights.
_MIDDLE = 10.0
# The start of the search: avoid a backlog and interference with decoding requests, and load a little.
_BEGIN = {I_BACKLOG: 1.0, I_INTERFERENCE: 1.0, I_LOAD: 0.5}
_SPREAD, _SPREAD_BY_BETA, _LEAST_SPREAD = 0.6, 0.2, 0.02
_ELITES, _KEPT = 0.25, 0.4


def linear_policy(products: Floats, products_by_beta: Floats, queue_depth: int) -> PolicyWeights:
    """Return a policy that is linear in the interactions: its network has no units."""
    features = feature_count(queue_depth) - INTERACTIONS
    none = np.zeros(0)
    return PolicyWeights(
        np.zeros((features, 0)), np.zeros((CONTEXT, 0)), np.zeros((3 * features, 0)), none, np.zeros((0, 0)), none,
        none, products, products_by_beta,
    )  # fmt: skip


def search(
    suite: TrainingSuite, queue_depth: int, config: SearchConfig, seed: int, threads: int
) -> tuple[Floats, Floats, list[float]]:
    """Return the best products and products_by_beta, and each iteration's mean cost relative to least_tokens.

    The same seed gives the same bytes.
    """
    rng = np.random.default_rng([seed, 0])
    mean = np.zeros(2 * INTERACTIONS)
    for interaction, weight in _BEGIN.items():
        mean[interaction] = weight
    spread = np.repeat([_SPREAD, _SPREAD_BY_BETA], INTERACTIONS)
    elites = max(2, round(_ELITES * config.search_candidates))
    history = []
    progress = Progress("iterations of the search", config.search_iterations)
    with ThreadPoolExecutor(threads) as pool, progress:
        for iteration in range(config.search_iterations):
            first = iteration * config.search_episodes
            rngs = [np.random.default_rng([seed, 1, first + i]) for i in range(config.search_episodes)]
            tests = list(pool.map(partial(_Test.of, suite), rngs))
            candidates = mean + spread * rng.standard_normal((config.search_candidates, len(mean)))
            candidates[0] = mean
            costs = np.array(list(pool.map(partial(_mean_cost, tests, queue_depth), candidates)))
            best = candidates[np.argsort(costs, kind="stable")[:elites]]
            mean = _KEPT * mean + (1 - _KEPT) * best.mean(0)
            spread = np.maximum(_KEPT * spread + (1 - _KEPT) * best.std(0), _LEAST_SPREAD)
            history.append(float(costs[0]))
            progress.update(iteration + 1, f"cost {np.mean(history[-10:]):.3f} relative to least_tokens")
    if history:
        print(progress.text(), file=sys.stderr, flush=True)
    return (*_weights(mean), history)


def _weights(candidate: Floats) -> tuple[Floats, Floats]:
    """Turn a candidate, costs at the middle beta and their growth with the feature of beta, into a policy's weights."""
    middle, growth = candidate[:INTERACTIONS], candidate[INTERACTIONS:]
    return bounded_products(-(middle - growth * math.log1p(_MIDDLE)), -growth)


@dataclass(frozen=True)
class _Test:
    """An episode, and its cost under least_tokens."""

    episode: Episode
    base: float

    @classmethod
    def of(cls, suite: TrainingSuite, rng: np.random.Generator) -> _Test:
        episode = suite.draw(rng)
        return cls(episode, _cost(episode, choose_least_tokens, np.array([-1.0, 256.0]), 0))


def _mean_cost(tests: Sequence[_Test], queue_depth: int, candidate: Floats) -> float:
    policy = linear_policy(*_weights(candidate), queue_depth)
    costs = [
        _cost(test.episode, choose_ppo, policy.memory(test.episode.beta, False), queue_depth) / test.base
        for test in tests
    ]
    return float(np.mean(costs))


def _cost(episode: Episode, choose: ChooseKernel, memory: Floats, queue_depth: int) -> float:
    engine = episode.run(choose, memory, queue_depth)
    arrived = engine.requests["arrived_at"]
    ttft, e2e = engine.requests["first_token_at"] - arrived, engine.requests["completed_at"] - arrived
    return episode_cost(ttft, e2e, episode.beta, episode.time_unit)
