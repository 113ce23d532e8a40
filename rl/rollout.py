"""Rollouts: the decisions of a policy in running simulations, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.kernels.features import CONTEXT, feature_count
from rl.kernels.rollout import BY_COST, BY_POLICY, FAILED, PENDING, SHORT_OF_ROWS, roll
from vidur.config import SimulationConfig
from vidur.engine.foresight import COST_PARTS
from vidur.engine.plans import event_rows, plan_replicas
from vidur.engine.state import EngineOptions, EngineState, HardwarePlan, ReplicaPlan, hardware_facts
from vidur.errors import InputError
from vidur.request_generator import RequestTable
from vidur.scheduler.observation import Floats
from vidur.scheduler.replica_scheduler import Policy
from vidur.scheduler.replica_scheduler.policy import form_batch_callback

# The engine's arrays that a simulation without recorded rows changes.
CHANGING = (
    "next_time", "times", "requests", "replicas", "replica_floats", "ready", "batch_requests", "batch_tokens",
    "batches", "busy", "ledger", "completions", "cluster", "cluster_floats", "stage_ends", "stage_state", "batch_times",
    "held", "gauges", "observed", "arrival", "available",
)  # fmt: skip

# Seconds: TTFT and TPOT that a request should meet, for the parts of a cost that count misses.
OBJECTIVES = (1.0, 0.05)


@dataclass(frozen=True)
class Rollout:
    """T successive decisions in one simulation.

    features float32[T + 1, R, F], contexts float32[T + 1, G], masks bool[T + 1, R]: what was seen, raw; the last row
    is the decision after the last, or unused if `ended`. actions int64[T]; log_probabilities [T] under the policy that
    acted; costs [T, COST_PARTS]: by how much the decision grew the cost of all requests, with their true lengths
    (vidur.engine.foresight); all_costs [T, R, COST_PARTS]: the same of every choice, or [0, ...]; decided_at [T + 1]:
    seconds; outstanding [T, R]: requests before the decision; requests int64[T]: the numbers of those placed.
    """

    features: NDArray[np.float32]
    contexts: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    log_probabilities: Floats
    costs: Floats
    all_costs: Floats
    decided_at: Floats
    outstanding: Floats
    requests: NDArray[np.int64]
    ended: bool

    def __len__(self) -> int:
        return len(self.actions)

    def cut(self, count: int) -> Rollout:
        """The first `count` decisions, after which the simulation has ended."""
        return Rollout(
            self.features[: count + 1],
            self.contexts[: count + 1],
            self.masks[: count + 1],
            self.actions[:count],
            self.log_probabilities[:count],
            self.costs[:count],
            self.all_costs[:count],
            self.decided_at[: count + 1],
            self.outstanding[:count],
            self.requests[:count],
            ended=True,
        )


@dataclass(frozen=True)
class Plans:
    """What many simulations of one cluster share."""

    replicas: list[ReplicaPlan]
    hardware: list[HardwarePlan]
    policy: Policy
    events: Floats
    gauge_interval: float

    @property
    def facts(self) -> Floats:
        """float64[replicas, HARDWARE_COLUMNS]."""
        return hardware_facts(self.replicas)

    @classmethod
    def of(cls, config: SimulationConfig, longest: RequestTable) -> Plans:
        """longest: requests no shorter than any to be simulated: the tables reach as far as they need."""
        cluster = config.cluster_config
        replicas, hardware, policy = plan_replicas(config, longest)
        return cls(replicas, hardware, policy, event_rows(cluster.replica_events), cluster.gauge_refresh_interval)


class RunningSimulation:
    """One simulation that a policy routes, rollout after rollout. engine: made for routers that observe everything."""

    def __init__(
        self, engine: EngineState, policy: Policy, beta: float, objectives: tuple[float, float] = OBJECTIVES
    ) -> None:
        self.engine = engine
        self.beta = beta
        self.num_requests = len(engine.requests)
        self.num_replicas = len(engine.replicas)
        self._features = feature_count(engine.options.queue_depth)
        self.batching = policy
        self._policy = form_batch_callback.handle(policy.form_batch)
        self._state = np.zeros(3, np.int64)
        self._projected = np.full((self.num_requests, 2), np.nan)
        self._objectives = np.array(objectives)

    @classmethod
    def of(
        cls,
        plans: Plans,
        requests: RequestTable,
        queue_depth: int,
        beta: float,
        events: Floats | None = None,
        objectives: tuple[float, float] = OBJECTIVES,
    ) -> RunningSimulation:
        """events: in place of those of the plans."""
        options = EngineOptions(record_rows=False, gauge_interval=plans.gauge_interval, queue_depth=queue_depth)
        timed = plans.events if events is None else events
        engine = EngineState(requests, plans.replicas, plans.hardware, timed, options)
        return cls(engine, plans.policy, beta, objectives)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copies of all that changes as the simulation goes on."""
        kept = {name: getattr(self.engine, name).copy() for name in CHANGING}
        return {**kept, "rollout_state": self._state.copy(), "projected": self._projected.copy()}

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where `snapshot` was taken, in a simulation made alike."""
        for name in CHANGING:
            getattr(self.engine, name)[...] = snapshot[name]
        self._state[...] = snapshot["rollout_state"]
        self._projected[...] = snapshot["projected"]

    def roll(
        self,
        memory: Floats,
        decisions: int,
        rng: np.random.Generator,
        mode: int = BY_POLICY,
        labels: bool = False,
        weights: Floats | None = None,
    ) -> Rollout:
        """The next decisions, `decisions` or as many as are left. memory: PolicyWeights.memory, its beta this one's.

        Raises InputError where a request fits no replica it was sent to, or is beyond the execution-time tables.
        """
        assert mode == BY_POLICY or (labels and weights is not None)
        replicas = self.num_replicas
        rollout = Rollout(
            features=np.zeros((decisions + 1, replicas, self._features), np.float32),
            contexts=np.zeros((decisions + 1, CONTEXT), np.float32),
            masks=np.ones((decisions + 1, replicas), np.bool_),
            actions=np.zeros(decisions, np.int64),
            log_probabilities=np.zeros(decisions),
            costs=np.zeros((decisions, COST_PARTS)),
            all_costs=np.zeros((decisions if labels else 0, replicas, COST_PARTS)),
            decided_at=np.zeros(decisions + 1),
            outstanding=np.zeros((decisions, replicas)),
            requests=np.zeros(decisions, np.int64),
            ended=False,
        )
        count, draws = 0, rng.random(decisions)
        self._state[SHORT_OF_ROWS] = 1
        while self._state[SHORT_OF_ROWS]:
            self._state[SHORT_OF_ROWS] = 0
            count = self._roll(count, mode, labels, memory, weights, draws, rollout)
            if self._state[SHORT_OF_ROWS]:
                self.engine.grow_rows()
        if count == FAILED:
            raise InputError("a request of the training workload fits no replica, or is beyond the tables")
        # A simulation may end just where the rollout does: then no decision is pending.
        return rollout if self._state[PENDING] else rollout.cut(count)

    def _roll(
        self, begin: int, mode: int, labels: bool, memory: Floats, weights: Floats | None, draws: Floats,
        rollout: Rollout,
    ) -> int:  # fmt: skip
        count: int = roll(
            begin, mode, labels, self._policy, self._state, memory,
            np.zeros(COST_PARTS) if weights is None else weights, draws, self._objectives,
            self._projected, rollout.features, rollout.contexts, rollout.masks, rollout.actions,
            rollout.log_probabilities, rollout.costs, rollout.all_costs, rollout.decided_at, rollout.outstanding,
            rollout.requests, *self.engine.run_arguments(),
        )  # fmt: skip
        return count


__all__ = ["BY_COST", "BY_POLICY", "OBJECTIVES", "Plans", "Rollout", "RunningSimulation"]
