"""Collect a policy's rollouts from many simulations in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.reward.reward import Window
from rl.router.policy import PolicyWeights
from rl.simulate.rollout import Rollout, RunningSimulation
from rl.train.suite import Episode, TrainingSuite

_EPISODES, _DRAWS = 1, 2


class Collector:
    """Simulate `groups` episodes at once, each in `members` copies.

    All randomness is seeded by (seed, episode) or (seed, collection, simulation), so results do not depend on the
    number of threads, and a snapshot needs no generator state.
    """

    def __init__(
        self, suite: TrainingSuite, max_queue_requests: int, groups: int, members: int, seed: int, threads: int
    ) -> None:
        self._suite = suite
        self._depth = max_queue_requests
        self._members = members
        self._seed = seed
        self._threads = threads
        self._collected = 0
        self._next_episode = groups
        self._episode_of = list(range(groups))
        self._episodes = [self._draw(number) for number in self._episode_of]
        self._simulations = [self._begin(episode) for episode in self._episodes for _ in range(members)]
        self.groups = [group for group in range(groups) for _ in range(members)]

    def _draw(self, number: int) -> Episode:
        return self._suite.draw(np.random.default_rng([self._seed, _EPISODES, number]))

    def _begin(self, episode: Episode) -> RunningSimulation:
        return RunningSimulation.of(episode.plans, episode.requests, self._depth, episode.beta, episode.events)

    def collect(self, weights: PolicyWeights, decisions: int) -> tuple[list[Rollout], list[Window]]:
        """Take the next decisions in each simulation; return the rollouts and the windows for their rewards.

        A group whose episode ended begins another one in the next call.
        """

        def roll(index: int) -> tuple[Rollout, Window]:
            simulation = self._simulations[index]
            rng = np.random.default_rng([self._seed, _DRAWS, self._collected, index])
            rollout = simulation.roll(weights.memory(simulation.beta, True), decisions, rng)
            return rollout, Window.of(rollout, simulation)

        with ThreadPoolExecutor(self._threads) as pool:
            pairs = list(pool.map(roll, range(len(self._simulations))))
        self._collected += 1
        rollouts = [rollout for rollout, _ in pairs]
        for group in sorted({self.groups[index] for index, rollout in enumerate(rollouts) if rollout.ended}):
            self._replace(group)
        return rollouts, [window for _, window in pairs]

    def _replace(self, group: int) -> None:
        self._episode_of[group] = self._next_episode
        self._next_episode += 1
        self._episodes[group] = self._draw(self._episode_of[group])
        for member in range(self._members):
            self._simulations[group * self._members + member] = self._begin(self._episodes[group])

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return everything that the next collection depends on, as arrays."""
        arrays = {
            "collected": np.array(self._collected),
            "next_episode": np.array(self._next_episode),
            "episode_of": np.array(self._episode_of),
        }
        for index, simulation in enumerate(self._simulations):
            arrays |= {f"simulation.{index}.{name}": array for name, array in simulation.snapshot().items()}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._collected = int(arrays["collected"])
        self._next_episode = int(arrays["next_episode"])
        self._episode_of = [int(number) for number in arrays["episode_of"]]
        self._episodes = [self._draw(number) for number in self._episode_of]
        self._simulations = [self._begin(episode) for episode in self._episodes for _ in range(self._members)]
        for index, simulation in enumerate(self._simulations):
            head = f"simulation.{index}."
            simulation.restore(
                {name.removeprefix(head): array for name, array in arrays.items() if name.startswith(head)}
            )
