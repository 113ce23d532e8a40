"""Route requests one decision at a time, through one interface to simulated and real clusters."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rl.reward.reward import Reward, RewardConfig
from rl.reward.window import Window
from rl.router.encoder import DEFAULT_QUEUE_REQUESTS
from rl.simulate.rollout import Plans, RunningSimulation
from vidur.config import PPOGlobalSchedulerConfig, SimulationConfig
from vidur.engine.foresight import COST_PARTS
from vidur.engine.recording import FINISHED
from vidur.observation import AWAITING, DECODE_SECONDS, OUTSTANDING, SPEED, ClusterObservation, Floats
from vidur.request_generator import RequestTable, generate_requests

# Exceeds the requests of any batch.
_MANY = 4096


class RoutingEnvironment(Protocol):
    """A cluster, simulated or real, that is routed one decision at a time.

    With the default reward, an episode's rewards add up to the negated cost of all its requests. The simulator runs
    ahead with the true output lengths, so each reward is the cost of that placement, known at once. With real replicas
    the cost of a request is known when it ends, so a reward is what became known since the last one. Therefore read
    the reward after each `act`, and once more when `observe` returns None. The simulator credits the effect of timed
    events to no placement.
    """

    @property
    def num_replicas(self) -> int: ...

    def observe(self) -> ClusterObservation | None:
        """Wait for the next request and return what a router can observe, or None at the end.

        Until `act` the decision stays the same. The arrays are views that the next decision changes.
        """

    def act(self, replica: int) -> None:
        """Route the pending request. Raises InputError if the replica is unavailable or cannot hold the request."""

    def reward(self) -> float:
        """Return the reward that became known since the last call; 0 if none did."""


class SimulatorEnvironment:
    """A simulated RoutingEnvironment.

    max_queue_requests: requests without a first token that are observed per replica. reward: by default the marginal
    cost. time_limit: seconds of simulated time. cost, float64[1, COST_PARTS]: the growth of the cost of all requests by
    the last act (vidur.engine.foresight).
    """

    def __init__(
        self,
        plans: Plans,
        requests: RequestTable,
        *,
        beta: float,
        max_queue_requests: int = DEFAULT_QUEUE_REQUESTS,
        reward: Reward | None = None,
        time_limit: float = np.inf,
    ) -> None:
        self.requests = requests
        self.beta = beta
        self._running = RunningSimulation.of(plans, requests, max_queue_requests, beta, time_limit=time_limit)
        self.engine = self._running.engine
        self._reward = Reward(RewardConfig.load("marginal_cost")) if reward is None else reward
        self._time_unit = float(self.engine.books.hardware[:, DECODE_SECONDS].min())
        self._ended = False
        # The last act, and whether its reward was read.
        self._action = 0
        self._read = True
        self.cost = np.zeros((1, COST_PARTS))
        self._before = self._queues()

    @classmethod
    def from_config(cls, config: SimulationConfig, requests: RequestTable | None = None) -> SimulatorEnvironment:
        """Simulate the cluster of a configuration with `requests`, or with its own workload.

        If its scheduler is `ppo`, that sets `beta`, `max_queue_requests` and `reward`; otherwise their defaults hold.
        """
        workload = generate_requests(config.request_generator_config) if requests is None else requests
        return Episodes(config).begin_with(workload)

    @property
    def num_replicas(self) -> int:
        return len(self.engine.books.available)

    @property
    def now(self) -> float:
        """Seconds of simulated time."""
        return float(self.engine.clock.ended_at if self._ended else self.engine.clock.now)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def outstanding(self) -> int:
        """The number of requests that are placed and have not ended."""
        return int(self.engine.books.ledger[:, OUTSTANDING].sum())

    @property
    def cut(self) -> bool:
        """Whether the time limit ended the simulation before all requests were routed."""
        return self._ended and bool(self.engine.clock.num_decisions)

    def observe(self) -> ClusterObservation | None:
        """See RoutingEnvironment. Raises InputError if a batch exceeds the execution-time tables."""
        observation = None if self._ended else self._running.observe()
        self._ended = observation is None
        return observation

    def act(self, replica: int) -> None:
        before = self._queues()
        self.cost[0] = self._running.assign(replica)
        self._action, self._read, self._before = replica, False, before

    def step_into(self, replica: int, seen: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """`act` (unless replica is -1), `observe`, and encode as StateEncoder.flatten does into `seen`.

        `mask` gets the available replicas. Both may have room for more replicas, and are 0 at the end.
        """
        before = self._queues()
        self._ended = not self._running.step(replica, self.cost[0], seen, mask)
        if replica >= 0:
            self._action, self._read, self._before = replica, False, before

    def window(self) -> Window:
        """Run to the next decision and return what happened since the last act. The arrays are views."""
        self.observe()
        engine = self.engine
        decided_at, outstanding, waiting = self._before
        return Window(
            decided_at=np.array([decided_at, max(decided_at, self.now)]),
            costs=self.cost,
            outstanding=outstanding[None, :],
            actions=np.array([self._action]),
            waiting=np.stack([waiting, engine.books.ledger[:, AWAITING]]),
            speeds=engine.books.hardware[:, SPEED],
            arrived_at=engine.requests["arrived_at"],
            first_token_at=engine.requests["first_token_at"],
            completed_at=engine.requests["completed_at"],
            prompt_tokens=engine.requests["prompt"],
            output_tokens=engine.requests["output"],
            beta=self.beta,
            time_unit=self._time_unit,
        )

    def reward(self, progress: float = 0.0) -> float:
        """Run to the next decision and return the reward of the last act; 0 if it was read before.

        progress: of the training, 0 to 1, which the reward's schedules follow.
        """
        if self._read:
            return 0.0
        self._read = True
        return float(self._reward.evaluate(self.window(), progress).clipped[0])

    def figures(self) -> dict[str, float]:
        """Return mean_e2e, mean_ttft and p99_ttft of the finished requests, in seconds; nan if there are none."""
        done = self.engine.requests[self.engine.requests["status"] == FINISHED]
        if not len(done):
            return dict.fromkeys(("mean_e2e", "mean_ttft", "p99_ttft"), np.nan)
        ttft = done["first_token_at"] - done["arrived_at"]
        return {
            "mean_e2e": float((done["completed_at"] - done["arrived_at"]).mean()),
            "mean_ttft": float(ttft.mean()),
            "p99_ttft": float(np.quantile(ttft, 0.99)),
        }

    def _queues(self) -> tuple[float, Floats, Floats]:
        """Return the time, and each replica's numbers of outstanding requests and of requests without a first token."""
        ledger = self.engine.books.ledger
        return float(self.engine.clock.now), ledger[:, OUTSTANDING].copy(), ledger[:, AWAITING].copy()


class Episodes:
    """Simulations of one configuration; each `begin(seed)` draws a new workload.

    If the configured scheduler is `ppo`, that sets `beta`, `max_queue_requests` and `reward`.
    """

    def __init__(self, config: SimulationConfig) -> None:
        router = config.cluster_config.global_scheduler_config
        settings = router if isinstance(router, PPOGlobalSchedulerConfig) else PPOGlobalSchedulerConfig()
        depth = settings.max_queue_requests
        self.config = config
        self.beta = settings.beta
        self.max_queue_requests = DEFAULT_QUEUE_REQUESTS if depth is None else depth
        self.reward = Reward(RewardConfig.load(settings.reward))
        longest = np.full(_MANY, max(config.request_generator_config.max_tokens - 1, 1))
        table = RequestTable.of(np.zeros(_MANY), longest, np.ones(_MANY, np.int64), "the longest requests")
        self.plans = Plans.of(config, table)

    @property
    def num_replicas(self) -> int:
        return len(self.plans.replicas)

    def requests(self, seed: int) -> RequestTable:
        """Draw the workload of a seed; a trace is the same for every seed."""
        return generate_requests(dataclasses.replace(self.config.request_generator_config, seed=seed))

    def begin(self, seed: int) -> SimulatorEnvironment:
        return self.begin_with(self.requests(seed))

    def begin_with(self, requests: RequestTable) -> SimulatorEnvironment:
        return SimulatorEnvironment(
            self.plans,
            requests,
            beta=self.beta,
            max_queue_requests=self.max_queue_requests,
            reward=self.reward,
            time_limit=self.config.time_limit or np.inf,
        )
