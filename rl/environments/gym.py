"""A Gymnasium environment for routing.

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
# The number of seeds from which `reset` draws that of a workload.
SEEDS = 2**31

Observation = NDArray[np.float32]


def observation_space(encoder: StateEncoder) -> Box:
    """Return the space of StateEncoder.flatten, with wide bounds, as Gymnasium's checker rejects infinite ones."""
    return Box(-1e9, 1e9, (encoder.flat_dimension,), np.float32)


class RoutingEnv(gymnasium.Env[Observation, np.int64]):
    """Route one request per action; an episode is one workload, which `reset` draws.

    Observations are StateEncoder.flatten's, float32[flat_dimension], and 0 after the end; actions are replicas. If the
    configured scheduler is `ppo`, that sets reward, beta and queue depth; otherwise their defaults hold (Episodes). The
    configuration's time limit truncates an episode.
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
        """The current episode."""
        if self._simulation is None:
            raise RuntimeError("there is no episode: reset first")
        return self._simulation

    @property
    def requests(self) -> RequestTable:
        """The workload of the episode."""
        return self.simulation.requests

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the available replicas, bool[replicas]; all of them after the end."""
        return self._mask.copy() if self._mask.any() else np.ones_like(self._mask)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode with a workload drawn by `seed`, or with the next one."""
        super().reset(seed=seed)
        self._simulation = self._episodes.begin(int(self.np_random.integers(SEEDS)))
        return self._step_into(-1)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Route the request, and return Gymnasium's five values.

        info: `time` in seconds, `outstanding` requests, and at the end SimulatorEnvironment.figures. Raises InputError
        if the replica is unavailable or cannot hold the request.
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
