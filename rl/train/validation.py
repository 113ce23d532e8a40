"""Compare a policy in training with schedulers, on episodes of fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

import rl.router.compiled  # noqa: F401
from rl.reward.cost import episode_cost
from rl.router.choose import choose_ppo
from rl.router.policy import PolicyWeights
from rl.simulate.demonstrations import begin_simulation, make_scheduler, run_scheduler
from rl.train.suite import Episode, TrainingSuite
from vidur.engine.engine import Engine
from vidur.observation import Floats
from vidur.progress import Progress
from vidur.scheduler.routers.base import ChooseKernel
from vidur.scheduler.routers.least_tokens import choose_least_tokens
from vidur.scheduler.routers.round_robin import choose_round_robin

# Apart from the seeds of training, which are smaller.
_SEED = 1 << 32

_LATENCIES = ("mean_e2e", "mean_ttft", "p99_ttft")

Figures = dict[str, float]


class Validation:
    """Compare on `count` episodes of a suite: latencies at `beta`, costs at each episode's own."""

    def __init__(self, suite: TrainingSuite, max_queue_requests: int, beta: float, count: int, threads: int) -> None:
        self._episodes = [suite.draw(np.random.default_rng([_SEED, index])) for index in range(count)]
        self._depth = max_queue_requests
        self._beta = beta
        self._threads = threads

    @cached_property
    def baselines(self) -> dict[str, dict[str, Floats]]:
        """The measurements of `_run` for each baseline."""
        return {
            "round_robin": self._run(choose_round_robin, lambda episode: np.full(1, -1.0)),
            "least_tokens": self._run(choose_least_tokens, lambda episode: np.array([-1.0, 256.0])),
        }

    def figures(self, weights: PolicyWeights) -> Figures:
        """Return the policy's mean_e2e, mean_ttft and p99_ttft in seconds, and its figures relative to baselines.

        `mean_e2e_vs_<baseline>` etc. are relative differences, negative where the policy is better; `cost` is relative
        to least_tokens. All are means over the episodes.
        """
        ours = self._run(choose_ppo, lambda episode: weights.memory(self._beta, False))
        figures = _latencies(ours)
        for baseline, theirs in self.baselines.items():
            for name in _LATENCIES:
                figures[f"{name}_vs_{baseline}"] = float((ours[name] / theirs[name] - 1.0).mean())
        own = self._run(choose_ppo, lambda episode: weights.memory(episode.beta, False))
        figures["cost"] = float((own["cost"] / self.baselines["least_tokens"]["cost"]).mean())
        return figures

    def policy_latencies(self, weights: PolicyWeights) -> Figures:
        """Return the policy's mean_e2e, mean_ttft and p99_ttft, in seconds, means over the episodes."""
        return _latencies(self._run(choose_ppo, lambda episode: weights.memory(self._beta, False)))

    def scheduler_latencies(self, name: str) -> Figures:
        """Return the same of a scheduler with default settings. Raises InputError for an unknown name."""
        rows = []
        for i, episode in enumerate(self._episodes):
            rng = np.random.default_rng([_SEED, i, 1])
            scheduler = make_scheduler(name, episode.plans, episode.requests, self._beta, rng)
            simulation = begin_simulation(scheduler, episode.plans, episode.requests, 0, self._beta, episode.events)
            run_scheduler(simulation, scheduler, 0)
            rows.append(_measured(simulation.engine, episode))
        return _latencies(_columns(rows))

    def _run(self, choose: ChooseKernel, memory: Callable[[Episode], Floats]) -> dict[str, Floats]:
        """Return mean_e2e, mean_ttft, p99_ttft, in seconds, and cost of each episode."""

        def run(episode: Episode) -> list[float]:
            return _measured(episode.run(choose, memory(episode), self._depth), episode)

        with ThreadPoolExecutor(self._threads) as pool:
            measured = pool.map(run, self._episodes)
            return _columns(list(Progress("episodes of validation", len(self._episodes)).over(measured)))


def _measured(engine: Engine, episode: Episode) -> list[float]:
    """Return mean_e2e, mean_ttft, p99_ttft, in seconds, and cost of a finished simulation."""
    arrived = engine.requests["arrived_at"]
    ttft = engine.requests["first_token_at"] - arrived
    e2e = engine.requests["completed_at"] - arrived
    cost = episode_cost(ttft, e2e, episode.beta, episode.time_unit)
    return [float(np.nanmean(e2e)), float(np.nanmean(ttft)), float(np.nanpercentile(ttft, 99)), cost]


def _columns(rows: Sequence[Sequence[float]]) -> dict[str, Floats]:
    return dict(zip((*_LATENCIES, "cost"), np.array(rows).T, strict=True))


def _latencies(measured: Mapping[str, Floats]) -> Figures:
    return {name: float(measured[name].mean()) for name in _LATENCIES}
