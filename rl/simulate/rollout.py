"""Rollouts record the decisions of a policy in running simulations as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.router.features import CONTEXT, feature_count
from rl.simulate.roll import BY_COST, BY_POLICY, Recorded, costs_of_all, roll
from rl.simulate.step import MARKS, PENDING, REFUSED, Handles, advance, assign, step
from vidur.config import SimulationConfig
from vidur.config.cluster import only_one_router
from vidur.engine.cluster import DECISION, ROWS_FULL, TABLE_MISS
from vidur.engine.engine import Engine
from vidur.engine.foresight import COST_PARTS
from vidur.engine.plan import EngineOptions, HardwarePlan, ReplicaPlan, hardware_facts
from vidur.engine.plug import Batcher
from vidur.engine.simulation import Simulation
from vidur.errors import InputError
from vidur.observation import ClusterObservation, Floats
from vidur.plans import event_rows, plan_replicas
from vidur.request_generator import RequestTable

# The objectives for TTFT and TPOT, in seconds; two parts of a cost count the requests that miss them.
OBJECTIVES = (1.0, 0.05)


@dataclass(frozen=True)
class Rollout:
    """T successive decisions in one simulation.

    features float32[T + 1, R, F], contexts float32[T + 1, G], masks bool[T + 1, R]: the raw observations; the last row
    belongs to the next decision, or is unused if `ended`. actions int64[T]; log_probabilities [T] under the policy that
    acted; costs [T, COST_PARTS]: the growth of the cost of all requests by the decision, with their true output lengths
    (vidur.engine.foresight); all_costs [T, R, COST_PARTS]: the same for every choice, or [0, ...]; decided_at [T + 1]
    in seconds; outstanding [T, R]: requests before the decision; requests int64[T]: the request placed.
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

    @classmethod
    def empty(cls, decisions: int, replicas: int, features: int, labels: bool) -> Rollout:
        """Allocate room for `decisions`; with `labels`, also for the costs of every choice."""
        return cls(
            features=np.zeros((decisions + 1, replicas, features), np.float32),
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

    def __len__(self) -> int:
        return len(self.actions)

    def cut(self, count: int) -> Rollout:
        """Return the first `count` decisions of a simulation that ended after them."""
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
    """The plans that all simulations of one cluster share."""

    replicas: list[ReplicaPlan]
    hardware: list[HardwarePlan]
    batcher: Batcher
    events: Floats
    gauge_interval: float

    @property
    def facts(self) -> Floats:
        """The hardware of the replicas, float64[replicas, HARDWARE_COLUMNS]."""
        return hardware_facts(self.replicas)

    @classmethod
    def of(cls, config: SimulationConfig, longest: RequestTable) -> Plans:
        """Plan the cluster of a configuration, with execution-time tables that cover the requests `longest`."""
        cluster = config.cluster_config
        only_one_router(cluster, "learning")
        replicas, hardware, batcher = plan_replicas(config, longest)
        return cls(replicas, hardware, batcher, event_rows(cluster.replica_events), cluster.gauge_refresh_interval)


class RunningSimulation:
    """A simulation that pauses at each routing decision, for the caller or a policy to place the request.

    Each placement returns what it costs all requests, with their true output lengths. engine: made for routers that
    observe everything. Methods raise InputError if a batch exceeds the execution-time tables, or if a replica is
    unavailable or can never hold the request; then nothing is placed.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, beta: float, objectives: tuple[float, float] = OBJECTIVES
    ) -> None:
        self.engine = engine
        self.beta = beta
        self.num_requests = len(engine.requests)
        self.num_replicas = len(engine.state.replicas)
        self._features = feature_count(engine.options.queue_depth)
        self._simulation = Simulation(engine, batcher)
        self._handles = Handles.of(batcher.form_batch)
        self._marks = np.zeros(MARKS, np.int64)
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
        time_limit: float = np.inf,
    ) -> RunningSimulation:
        """Begin a simulation of `requests`. events: replace those of the plans. time_limit: seconds."""
        options = EngineOptions(
            time_limit=time_limit, record_rows=False, gauge_interval=plans.gauge_interval, queue_depth=queue_depth
        )
        timed = plans.events if events is None else events
        engine = Engine(requests, plans.replicas, plans.hardware, timed, options)
        return cls(engine, plans.batcher, beta, objectives)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copy everything that changes as the simulation runs."""
        return {**self.engine.snapshot(), "marks": self._marks.copy(), "projected": self._projected.copy()}

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot of a simulation with the same plans and requests."""
        self.engine.restore(snapshot)
        self._marks[...] = snapshot["marks"]
        self._projected[...] = snapshot["projected"]

    def advance(self) -> bool:
        """Run to the next decision, unless one is pending. Returns False if the simulation has ended."""
        while self._goes_on(status := self._advance()):
            pass
        return status == DECISION

    def observe(self) -> ClusterObservation | None:
        """`advance`, and return what a router can observe, or None at the end. The next decision changes the arrays."""
        return self._simulation.observation() if self.advance() else None

    @property
    def request(self) -> int:
        """The request to be placed, numbered in order of arrival."""
        return int(self.engine.clock.current)

    def assign(self, replica: int) -> Floats:
        """Place the pending request, and return the growth of the cost of all requests, float64[COST_PARTS]."""
        self._check(replica)
        cost = np.zeros(COST_PARTS)
        if not assign(
            replica, self._handles, self._marks, self._objectives, self._projected, cost, self.engine.address
        ):
            raise self._refusal(replica)
        return cost

    def costs_of_all(self) -> Floats:
        """Return what `assign` would for each replica, float64[R, COST_PARTS]; part 0 is inf where it would refuse."""
        costs = np.zeros((self.num_replicas, COST_PARTS))
        costs_of_all(self.request, self._handles, self._objectives, self._projected, costs, self.engine.address)
        return costs

    def step(self, replica: int, cost: Floats, seen: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
        """`assign` (unless replica is -1), `advance` and encode in one call. Returns False at the end.

        Overwrites cost, float64[COST_PARTS], seen, float32[R * (F + 1) + G], as StateEncoder.flatten lays it out, and
        mask, bool[R], the available replicas. R may exceed the number of replicas; both are 0 at the end.
        """
        if replica >= 0:
            self._check(replica)
        cost[:] = 0.0
        while True:
            status = step(
                replica, self._handles, self.beta, self._marks, self._objectives, self._projected, cost, seen, mask,
                self.engine.address,
            )  # fmt: skip
            if status == REFUSED:
                raise self._refusal(replica)
            if not self._goes_on(status):
                return bool(status == DECISION)
            replica = -1  # it is placed already

    def roll(
        self,
        memory: Floats,
        decisions: int,
        rng: np.random.Generator,
        mode: int = BY_POLICY,
        labels: bool = False,
        weights: Floats | None = None,
    ) -> Rollout:
        """Take the next `decisions` with a policy, or as many as are left.

        memory: PolicyWeights.memory with the beta of this simulation. mode, weights: as in rl.simulate.roll. labels:
        record the costs of all choices.
        """
        assert mode == BY_POLICY or (labels and weights is not None)
        rollout = Rollout.empty(decisions, self.num_replicas, self._features, labels)
        recorded = Recorded(*(getattr(rollout, name) for name in Recorded._fields))
        cost_weights = np.zeros(COST_PARTS) if weights is None else weights
        count, draws = 0, rng.random(decisions)
        while True:
            count, status = roll(
                count, mode, self._handles, self._marks, memory, cost_weights, draws, self._objectives,
                self._projected, recorded, self.engine.address,
            )  # fmt: skip
            if status == REFUSED:
                raise self._refusal(int(rollout.actions[count]))
            if not self._goes_on(status):
                # A simulation may end just where the rollout does.
                return rollout if status == DECISION else rollout.cut(count)

    def _advance(self) -> int:
        return int(advance(self._handles, self._marks, self._objectives, self._projected, self.engine.address))

    def _goes_on(self, status: int) -> bool:
        """Return whether to call the kernel again: it ran out of rows, and now has more."""
        if status == TABLE_MISS:
            raise InputError(
                f"a batch of replica {self.engine.clock.error_replica} exceeds its execution-time tables: "
                "raise the workload's max_tokens"
            )
        if status == ROWS_FULL:
            self.engine.grow_rows()
        return status == ROWS_FULL

    def _check(self, replica: int) -> None:
        available = self.engine.books.available
        if not self._marks[PENDING]:
            raise RuntimeError("there is no decision to make: observe first")
        if not 0 <= replica < len(available) or not available[replica]:
            raise InputError(f"replica {replica} is not available: choose one of {np.flatnonzero(available)}")

    def _refusal(self, replica: int) -> InputError:
        request = self.engine.requests[self.request]
        return InputError(
            f"replica {replica} can never hold a request of {request.prompt} prompt and {request.output} output "
            "tokens, or its execution-time tables are too short: give it more memory, or shorten the requests"
        )


__all__ = ["BY_COST", "BY_POLICY", "OBJECTIVES", "Plans", "Rollout", "RunningSimulation"]
