"""Episodes on fixed seeds, on which a policy in training is compared with schedulers that do not learn."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import rl.kernels.compiled  # noqa: F401
from rl.kernels.choose import choose_ppo
from rl.policy import PolicyWeights
from rl.suite import Episode, TrainingSuite
from vidur.engine import layout as at
from vidur.scheduler.global_scheduler.base import ChooseKernel
from vidur.scheduler.global_scheduler.least_tokens import choose_least_tokens
from vidur.scheduler.global_scheduler.round_robin import choose_round_robin
from vidur.scheduler.observation import Floats

# Not among the seeds of training, which are small.
_SEED = 1 << 32

Figures = dict[str, float]


class Validation:
    """`count` episodes of a suite, all at one beta."""

    def __init__(self, suite: TrainingSuite, max_queue_requests: int, beta: float, count: int, threads: int) -> None:
        self._episodes = [suite.draw(np.random.default_rng([_SEED, index])) for index in range(count)]
        self._depth = max_queue_requests
        self._beta = beta
        self._threads = threads
        self.baselines = {
            "round_robin": self._run(choose_round_robin, np.full(1, -1.0)),
            "least_tokens": self._run(choose_least_tokens, np.array([-1.0, 256.0])),
        }

    def figures(self, weights: PolicyWeights) -> Figures:
        """mean_e2e, mean_ttft and p99_ttft (seconds, means over the episodes), and `mean_e2e_vs_<baseline>` and so on:
        the mean over the episodes of the relative difference, negative where the policy is better."""
        ours = self._run(choose_ppo, weights.memory(self._beta, False))
        figures = {name: float(values.mean()) for name, values in ours.items()}
        for baseline, theirs in self.baselines.items():
            for name, values in ours.items():
                figures[f"{name}_vs_{baseline}"] = float((values / theirs[name] - 1.0).mean())
        return figures

    def _run(self, choose: ChooseKernel, memory: Floats) -> Mapping[str, Floats]:
        """Of each episode: mean_e2e, mean_ttft, p99_ttft in seconds."""
        with ThreadPoolExecutor(self._threads) as pool:
            rows = list(pool.map(lambda episode: self._run_episode(episode, choose, memory.copy()), self._episodes))
        return dict(zip(("mean_e2e", "mean_ttft", "p99_ttft"), np.array(rows).T, strict=True))

    def _run_episode(self, episode: Episode, choose: ChooseKernel, memory: Floats) -> list[float]:
        engine = episode.run(choose, memory, self._depth)
        arrived = engine.times[:, at.ARRIVED]
        ttft = engine.times[:, at.FIRST_TOKEN] - arrived
        e2e = engine.times[:, at.COMPLETED] - arrived
        return [float(np.nanmean(e2e)), float(np.nanmean(ttft)), float(np.nanpercentile(ttft, 99))]
