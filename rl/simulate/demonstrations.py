"""Record the decisions of schedulers in running simulations as rollouts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rl.router.encoder import StateEncoder
from rl.router.scheduler import ppo_maker
from rl.simulate.rollout import Plans, Rollout, RunningSimulation
from vidur.config import PPOGlobalSchedulerConfig
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LookaheadGlobalSchedulerConfig
from vidur.errors import unknown_name
from vidur.observation import OUTSTANDING, ClusterObservation, Floats
from vidur.request_generator import RequestTable
from vidur.scheduler.routers import GLOBAL_SCHEDULERS, GlobalScheduler, KernelScheduler, RouterContext
from vidur.scheduler.routers.lookahead import LookaheadScheduler, ReplicaModel

# Needs the user's file, so a name is not enough.
_NOT_BY_NAME = ("custom",)


def scheduler_names() -> list[str]:
    """Return the names that `make_scheduler` takes."""
    return sorted(set(BaseGlobalSchedulerConfig.family) - set(_NOT_BY_NAME))


def make_scheduler(
    name: str, plans: Plans, requests: RequestTable, beta: float, rng: np.random.Generator
) -> GlobalScheduler:
    """Make the scheduler of a name with its default settings; `lookahead` and `ppo` take `beta`.

    requests: their lengths give the thresholds of size_split. Raises InputError for an unknown name.
    """
    if name not in scheduler_names():
        raise unknown_name("global scheduler", name, scheduler_names())
    context = RouterContext(
        hardware=plans.facts,
        rng=rng,
        prompt_tokens=requests.num_prefill_tokens,
        output_tokens=requests.num_decode_tokens,
        simulator=ReplicaModel(plans.replicas, plans.hardware, plans.batcher),
    )
    if name == "lookahead":
        return LookaheadScheduler.from_config(LookaheadGlobalSchedulerConfig(beta=beta), context)
    if name == "ppo":
        return ppo_maker(PPOGlobalSchedulerConfig(beta=beta))(context)
    config = BaseGlobalSchedulerConfig.from_type(name)()
    scheduler: GlobalScheduler = GLOBAL_SCHEDULERS.get(name).from_config(config, context)
    return scheduler


def begin_simulation(
    scheduler: GlobalScheduler,
    plans: Plans,
    requests: RequestTable,
    max_queue_requests: int,
    beta: float,
    events: Floats | None = None,
) -> RunningSimulation:
    """Begin a simulation that observes what the scheduler, and an encoder of `max_queue_requests`, need.

    events: replace those of the plans.
    """
    fresh = isinstance(scheduler, KernelScheduler) and scheduler.needs_fresh_gauges
    seen = replace(plans, gauge_interval=0.0) if fresh else plans
    return RunningSimulation.of(seen, requests, max(max_queue_requests, scheduler.queue_depth), beta, events)


def run_scheduler(
    simulation: RunningSimulation,
    scheduler: GlobalScheduler,
    max_queue_requests: int,
    decisions: int | None = None,
    labels: bool = False,
) -> Rollout:
    """Let `scheduler` take the next `decisions`, or as many as are left (all if None).

    The features are those of a StateEncoder of `max_queue_requests`; log_probabilities are 0. With `labels`, all_costs
    holds the costs of every choice, inf in part 0 where a replica is unavailable or refuses; otherwise it is empty.
    Rollouts of policies and schedulers may follow one another in a simulation. Raises InputError if a request does not
    fit the chosen replica or exceeds the execution-time tables.
    """
    recorded = _Decisions(StateEncoder(simulation.num_replicas, max_queue_requests), simulation.beta)
    while (observation := simulation.observe()) is not None:
        recorded.see(observation)
        if len(recorded) == decisions:
            return recorded.rollout(labels, ended=False)
        replica = int(scheduler.schedule(observation))
        outstanding = observation.ledger[:, OUTSTANDING].copy()
        others = simulation.costs_of_all() if labels else None
        recorded.decide(replica, simulation.request, outstanding, simulation.assign(replica), others)
    return recorded.rollout(labels, ended=True)


class _Decisions:
    """The observations and decisions so far, one row each."""

    def __init__(self, encoder: StateEncoder, beta: float) -> None:
        self._encoder = encoder
        self._beta = beta
        self._seen: list[tuple[Floats, Floats, NDArray[np.bool_], float]] = []
        self._decided: list[tuple[int, int, Floats, Floats, Floats | None]] = []

    def __len__(self) -> int:
        return len(self._decided)

    def see(self, observation: ClusterObservation) -> None:
        x, context = self._encoder.encode(observation, self._beta)
        self._seen.append((x.copy(), context.copy(), observation.available.copy(), observation.now))

    def decide(self, replica: int, request: int, outstanding: Floats, costs: Floats, all_costs: Floats | None) -> None:
        self._decided.append((replica, request, outstanding, costs, all_costs))

    def rollout(self, labels: bool, ended: bool) -> Rollout:
        """Return the decisions as a rollout, whose last row is unused if the simulation has `ended`."""
        encoder = self._encoder
        rollout = Rollout.empty(len(self), encoder.num_replicas, encoder.replica_dimension, labels)
        for row, (x, context, available, now) in enumerate(self._seen):
            rollout.features[row], rollout.contexts[row], rollout.masks[row] = x, context, available
            rollout.decided_at[row] = now
        for row, (replica, request, outstanding, costs, all_costs) in enumerate(self._decided):
            rollout.actions[row], rollout.requests[row] = replica, request
            rollout.outstanding[row], rollout.costs[row] = outstanding, costs
            if all_costs is not None:
                rollout.all_costs[row] = all_costs
        return replace(rollout, ended=ended)
