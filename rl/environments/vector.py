"""Many simulations side by side, a decision of each at every step: NumPy arrays in and out."""

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
    """RoutingEnv, `num_envs` times: simulation i of reset(seed=s) is RoutingEnv after reset(seed=s + i).

    configs: one configuration for all, or several, which simulations take in turns. Where their clusters differ in
    size, observations and masks have room for the most replicas R, and those that are not there look like replicas that
    are away. `max_queue_requests` and `reward`, with its running normalisation, are the first one's for all. progress,
    0 to 1: of the training, which a reward's schedules follow. threads: as many as there are cores if none; they
    change no result.

    Observations float32[N, R * (F + 1) + G], actions int64[N], masks bool[N, R]. A simulation that ends begins its next
    workload within the same step (AutoresetMode.SAME_STEP): its last observation is in info["final_obs"], the
    figures of the episode in info["final_info"].
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
        # Rewards that are a function of the costs alone are computed for all simulations of a kind at once.
        self._by_cost = all(isinstance(part.term, MarginalCost) for part in self.reward.config.terms)
        self._groups = [[i for i, its in enumerate(self._episodes) if its is kind] for kind in kinds[:num_envs]]

    def action_masks(self) -> NDArray[np.bool_]:
        """bool[N, R]: the replicas that are available."""
        masks: NDArray[np.bool_] = self._masks.copy()
        return masks

    @property
    def simulations(self) -> Sequence[SimulatorEnvironment]:
        """The episodes under way."""
        return tuple(self._simulations)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin N episodes. seed: of simulation 0, or of each; without one the next workloads are drawn."""
        if seed is not None or not self._rngs:
            seeds = (
                seed if isinstance(seed, list) else [None if seed is None else seed + i for i in range(self.num_envs)]
            )
            self._rngs = [np_random(one)[0] for one in seeds]
        self._simulations = [self._begin(index) for index in range(self.num_envs)]
        self._for_all(lambda index: self._step_into(index, -1))
        return self._seen.copy(), self._info()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observations, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Rewards float64[N], terminations and truncations bool[N]; info: `time` [N], seconds.

        Raises InputError for a replica that is away or cannot hold the request.
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
        """Run the task on each index. The kernels let other threads run; no simulation touches another."""

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
            one = self._simulations[group[0]]
            costs = np.concatenate([self._simulations[index].cost for index in group])
            window = replace(one.window(), costs=costs)
            rewards[group] = self.reward.evaluate(window, self.progress).clipped
        return rewards

    def _info(self) -> dict[str, Any]:
        return {"time": np.array([simulation.now for simulation in self._simulations])}
