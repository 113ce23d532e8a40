"""Run many routing simulations in parallel as a Gymnasium vector environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl.environments.environment import Episodes, SimulatorEnvironment
from rl.environments.gym import SEEDS, observation_space
from rl.reward.terms import MarginalCost
from rl.router.encoder import StateEncoder
from vidur.config import SimulationConfig
from vidur.errors import InputError
from vidur.observation import Floats

Observations = NDArray[np.float32]


class RoutingVectorEnv(VectorEnv[Observations, NDArray[np.int64], Any]):
    """`num_envs` copies of RoutingEnv: after reset(seed=s), simulation i is RoutingEnv after reset(seed=s + i).

    configs: one configuration for all, or several that the simulations take in turns. Observations and masks have room
    for R replicas, the most of any cluster; absent replicas look unavailable. The first configuration's
    `max_queue_requests` and `reward`, with its running normalisation, hold for all. threads: by default one per core;
    results do not depend on it. progress: of the training, 0 to 1, which the reward's schedules follow.

    Observations are float32[N, R * (F + 1) + G], actions int64[N], masks bool[N, R]. A simulation that ends begins its
    next workload in the same step (AutoresetMode.SAME_STEP): info["final_obs"] has its last observation,
    info["final_info"] the figures of the episode.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, configs: SimulationConfig | Sequence[SimulationConfig], num_envs: int, threads: int | None = None
    ) -> None:
        given = [configs] if isinstance(configs, SimulationConfig) else list(configs)
        if num_envs < 1 or not given:
            raise InputError("a vector environment needs at least one configuration and one simulation")
        kinds = [Episodes(config) for config in given]
        self.num_envs = num_envs
        self._episodes = [kinds[index % len(kinds)] for index in range(num_envs)]
        self.reward, self.progress = kinds[0].reward, 0.0
        for kind in kinds:
            kind.reward, kind.max_queue_requests = self.reward, kinds[0].max_queue_requests
        self.encoder = StateEncoder(max(kind.num_replicas for kind in kinds), kinds[0].max_queue_requests)
        self.single_observation_space = observation_space(self.encoder)
        self.single_action_space = Discrete(self.encoder.num_replicas)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seen = np.zeros((num_envs, self.encoder.flat_dimension), np.float32)
        self._masks = np.zeros((num_envs, self.encoder.num_replicas), np.bool_)
        self._rngs: list[np.random.Generator] = []
        self._simulations: list[SimulatorEnvironment] = []
        count = min(threads or len(os.sched_getaffinity(0)), num_envs)
        self._shares = np.array_split(np.arange(num_envs), count)
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        # Rewards that depend on the costs alone are computed at once for all simulations of a configuration.
        self._by_cost = all(isinstance(part.term, MarginalCost) for part in self.reward.config.terms)
        self._groups = [[i for i, other in enumerate(self._episodes) if other is kind] for kind in kinds[:num_envs]]

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the available replicas, bool[N, R]."""
        masks: NDArray[np.bool_] = self._masks.copy()
        return masks

    @property
    def simulations(self) -> Sequence[SimulatorEnvironment]:
        """The current episodes."""
        return tuple(self._simulations)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin N episodes. seed: of simulation 0, or of each; without it the next workloads are drawn."""
        if seed is not None or not self._rngs:
            if not isinstance(seed, list):
                seed = [None if seed is None else seed + i for i in range(self.num_envs)]
            self._rngs = [np_random(s)[0] for s in seed]
        self._simulations = [self._begin(index) for index in range(self.num_envs)]
        self._for_all(lambda index: self._step_into(index, -1))
        return self._seen.copy(), self._info()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observations, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Route a request of each simulation, and return Gymnasium's five values.

        Rewards are float64[N], terminations and truncations bool[N]; info has `time` [N] in seconds. Raises InputError
        if a replica is unavailable or cannot hold its request.
        """
        chosen = [int(action) for action in actions]
        self._for_all(lambda index: self._step_into(index, chosen[index]))
        rewards = self._rewards()
        ended = np.array([simulation.ended for simulation in self._simulations])
        cut = np.array([simulation.cut for simulation in self._simulations])
        final: dict[str, Any] = {}
        for index in np.flatnonzero(ended).tolist():
            figures = {**self._simulations[index].figures(), "time": self._simulations[index].now}
            final = self._add_info(final, {"final_obs": self._seen[index].copy(), "final_info": figures}, index)
            self._simulations[index] = self._begin(index)
            self._step_into(index, -1)
        return self._seen.copy(), rewards, ended & ~cut, cut, {**self._info(), **final}

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _begin(self, index: int) -> SimulatorEnvironment:
        return self._episodes[index].begin(int(self._rngs[index].integers(SEEDS)))

    def _step_into(self, index: int, action: int) -> None:
        self._simulations[index].step_into(action, self._seen[index], self._masks[index])

    def _for_all(self, task: Callable[[int], None]) -> None:
        """Run the task on each index, in threads: the kernels release the GIL, and no simulation touches another."""

        def run(share: NDArray[np.int64]) -> None:
            for index in share:
                task(index)

        if self._pool is None:
            run(self._shares[0])
        else:
            list(self._pool.map(run, self._shares))

    def _rewards(self) -> Floats:
        if not self._by_cost:
            return np.array([simulation.reward(self.progress) for simulation in self._simulations])
        rewards = np.zeros(self.num_envs)
        for group in self._groups:
            costs = np.concatenate([self._simulations[index].cost for index in group])
            window = replace(self._simulations[group[0]].window(), costs=costs)
            rewards[group] = self.reward.evaluate(window, self.progress).clipped
        return rewards

    def _info(self) -> dict[str, Any]:
        return {"time": np.array([simulation.now for simulation in self._simulations])}
