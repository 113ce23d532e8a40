"""Routing as a Gymnasium environment, for learners that are not this package's.

It is registered as `vidur/Routing-v0`: `gymnasium.make("rl.environments.gym:vidur/Routing-v0", config=config)`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rl.environments.environment import Episodes, SimulatorEnvironment
from rl.router.encoder import StateEncoder
from vidur.config import SimulationConfig
from vidur.request_generator import RequestTable

ENVIRONMENT_ID = "vidur/Routing-v0"
# A workload is one of so many.
SEEDS = 2**31

Observation = NDArray[np.float32]


def observation_space(encoder: StateEncoder) -> Box:
    """Of StateEncoder.flatten. Bounds that no feature comes near: Gymnasium's checker objects to infinity."""
    return Box(-1e9, 1e9, (encoder.flat_dimension,), np.float32)


class RoutingEnv(gymnasium.Env[Observation, np.int64]):
    """An action routes one request; an episode is one workload, drawn anew by `reset`.

    Observations are StateEncoder.flatten's, float32[flat_dimension], 0 after the end; actions are replicas. The reward,
    beta and the queue depth are those of `config`'s router if that is `ppo`, else its defaults (Episodes). An episode
    is truncated where the configuration's time limit cuts it.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, config: SimulationConfig) -> None:
        self._episodes = Episodes(config)
        self.encoder = StateEncoder(self._episodes.num_replicas, self._episodes.max_queue_requests)
        self.observation_space: Any = observation_space(self.encoder)
        self.action_space = Discrete(self.encoder.num_replicas)
        self._simulation: SimulatorEnvironment | None = None
        self._seen = np.zeros(self.encoder.flat_dimension, np.float32)
        self._mask = np.ones(self.encoder.num_replicas, np.bool_)

    @property
    def simulation(self) -> SimulatorEnvironment:
        """The episode under way."""
        if self._simulation is None:
            raise RuntimeError("there is no episode: reset first")
        return self._simulation

    @property
    def requests(self) -> RequestTable:
        """The workload of the episode."""
        return self.simulation.requests

    def action_masks(self) -> NDArray[np.bool_]:
        """bool[replicas]: those that are available; all of them after the end."""
        return self._mask.copy() if self._mask.any() else np.ones_like(self._mask)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode with a workload drawn by the seed, or the next one."""
        super().reset(seed=seed)
        self._simulation = self._episodes.begin(int(self.np_random.integers(SEEDS)))
        return self._step_into(-1)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """info: `time` in seconds, `outstanding` requests, and after the end the SimulatorEnvironment.figures.

        Raises InputError for a replica that is away or cannot hold the request.
        """
        seen, info = self._step_into(int(action))
        simulation = self.simulation
        if simulation.ended:
            info |= simulation.figures()
        return seen, simulation.reward(), simulation.ended and not simulation.cut, simulation.cut, info

    def _step_into(self, action: int) -> tuple[Observation, dict[str, Any]]:
        simulation = self.simulation
        simulation.step_into(action, self._seen, self._mask)
        return self._seen.copy(), {"time": simulation.now, "outstanding": simulation.outstanding}


gymnasium.register(ENVIRONMENT_ID, "rl.environments.gym:RoutingEnv")
