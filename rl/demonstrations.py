"""Decisions of schedulers in running simulations, recorded as the rollouts of a policy are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rl.encoder import StateEncoder
from rl.kernels.rollout import EVENTS, PENDING
from rl.rollout import Plans, Rollout, RunningSimulation
from rl.scheduler import make_ppo_scheduler
from vidur.config import PPOGlobalSchedulerConfig
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LookaheadGlobalSchedulerConfig
from vidur.engine import layout as at
from vidur.engine.foresight import COST_PARTS, foresee
from vidur.engine.simulation import Simulation
from vidur.errors import InputError, unknown_name
from vidur.request_generator import RequestTable
from vidur.scheduler.global_scheduler import GLOBAL_SCHEDULERS, GlobalScheduler, KernelScheduler, RouterContext
from vidur.scheduler.global_scheduler.lookahead import LookaheadScheduler, ReplicaModel
from vidur.scheduler.observation import OUTSTANDING, ClusterObservation, Floats

# Needs a file of the user's.
_NOT_BY_NAME = ("custom",)

# The engine's arrays that `foresee` takes: the first ones of `run_arguments`, up to the times of batches.
_FORESEEN_ARRAYS = 29


def scheduler_names() -> list[str]:
    """The schedulers that `make_scheduler` knows."""
    return sorted(set(BaseGlobalSchedulerConfig.family) - set(_NOT_BY_NAME))


def make_scheduler(
    name: str, plans: Plans, requests: RequestTable, beta: float, rng: np.random.Generator
) -> GlobalScheduler:
    """The scheduler of that name with its default settings; `lookahead` and `ppo` with `beta`.

    requests: size_split takes its thresholds from their lengths. Raises InputError for an unknown name.
    """
    if name not in scheduler_names():
        raise unknown_name("global scheduler", name, scheduler_names())
    context = RouterContext(
        hardware=plans.facts,
        rng=rng,
        prompt_tokens=requests.num_prefill_tokens,
        output_tokens=requests.num_decode_tokens,
        simulator=ReplicaModel(plans.replicas, plans.hardware, plans.policy),
    )
    if name == "lookahead":
        return LookaheadScheduler.from_config(LookaheadGlobalSchedulerConfig(beta=beta), context)
    if name == "ppo":
        return make_ppo_scheduler(PPOGlobalSchedulerConfig(beta=beta), context)
    made: GlobalScheduler = GLOBAL_SCHEDULERS.get(name).from_config(
        BaseGlobalSchedulerConfig.from_type(name)(), context
    )
    return made


def begin_simulation(
    scheduler: GlobalScheduler, plans: Plans, requests: RequestTable, max_queue_requests: int, beta: float
) -> RunningSimulation:
    """A simulation of `requests` in which the scheduler, and an encoder of `max_queue_requests`, see what they need."""
    fresh = isinstance(scheduler, KernelScheduler) and scheduler.needs_fresh_gauges
    seen = replace(plans, gauge_interval=0.0) if fresh else plans
    return RunningSimulation.of(seen, requests, max(max_queue_requests, scheduler.queue_depth), beta)


def run_scheduler(
    simulation: RunningSimulation,
    scheduler: GlobalScheduler,
    max_queue_requests: int,
    decisions: int | None = None,
    labels: bool = False,
) -> Rollout:
    """The next decisions of the simulation, taken by `scheduler`: `decisions`, or as many as are left (all if None).

    The features are those of a StateEncoder of `max_queue_requests`; log_probabilities are 0. all_costs holds the costs
    of every choice if `labels`, inf in part 0 where a replica is away or refuses; it is empty otherwise.
    Rollouts of policies and of schedulers may follow one another in one simulation. Raises InputError where a request
    fits no replica it was sent to, or is beyond the execution-time tables.
    """
    engine = simulation.engine
    simulated = Simulation(engine, simulation.batching)
    recorded = _Decisions(StateEncoder(simulation.num_replicas, max_queue_requests), simulation.beta)
    while (observation := _observe(simulation, simulated)) is not None:
        recorded.see(observation)
        if len(recorded) == decisions:
            return recorded.rollout(ended=False)
        replica = int(scheduler.schedule(observation))
        request = int(engine.cluster[at.CURRENT])
        costs = np.zeros(COST_PARTS)
        others = _costs_of_all(simulation, observation, request) if labels else None
        if observation.available[replica] and not _foresee(simulation, replica, request, costs, keep=True):
            raise InputError(
                f"replica {replica} refuses request {request}: it is too long for it, or beyond the tables"
            )
        recorded.decide(observation, replica, request, costs, others)
        simulated.place(replica)
        simulation._state[PENDING] = 0
    return recorded.rollout(ended=True)


def _observe(simulation: RunningSimulation, simulated: Simulation) -> ClusterObservation | None:
    """What is seen at the pending decision, or else at the next one; None at the end."""
    engine, state = simulation.engine, simulation._state
    if state[PENDING]:
        return simulated.observation()
    observation = simulated.next_decision()
    if observation is None:
        return None
    state[PENDING] = 1
    if engine.cluster[at.NEXT_EVENT] != state[EVENTS]:
        # What an event changed is not the doing of the next placement.
        state[EVENTS] = engine.cluster[at.NEXT_EVENT]
        for replica in range(simulation.num_replicas):
            _foresee(simulation, replica, -1, np.zeros(COST_PARTS), keep=True)
    return observation


def _costs_of_all(simulation: RunningSimulation, observation: ClusterObservation, request: int) -> Floats:
    costs = np.zeros((simulation.num_replicas, COST_PARTS))
    for replica in range(simulation.num_replicas):
        if not observation.available[replica] or not _foresee(simulation, replica, request, costs[replica], keep=False):
            costs[replica, 0] = np.inf
    return costs


def _foresee(simulation: RunningSimulation, replica: int, request: int, costs: Floats, keep: bool) -> bool:
    fine: bool = foresee(
        replica, request, keep, simulation._policy, simulation._objectives, simulation._projected, costs,
        *simulation.engine.run_arguments()[:_FORESEEN_ARRAYS],
    )  # fmt: skip
    return fine


class _Decisions:
    """What was seen and decided so far, row by row."""

    def __init__(self, encoder: StateEncoder, beta: float) -> None:
        self._encoder = encoder
        self._beta = beta
        self._seen: list[tuple[Floats, Floats, NDArray[np.bool_], float]] = []
        self._decided: list[tuple[int, int, Floats, Floats]] = []
        self._all_costs: list[Floats] = []

    def __len__(self) -> int:
        return len(self._decided)

    def see(self, observation: ClusterObservation) -> None:
        x, context = self._encoder.encode(observation, self._beta)
        self._seen.append((x.copy(), context.copy(), observation.available.copy(), observation.now))

    def decide(
        self, observation: ClusterObservation, replica: int, request: int, costs: Floats, all_costs: Floats | None
    ) -> None:
        if all_costs is not None:
            self._all_costs.append(all_costs)
        self._decided.append((replica, request, costs, observation.ledger[:, OUTSTANDING].copy()))

    def rollout(self, ended: bool) -> Rollout:
        """With an unused last row if the simulation has ended."""
        encoder, count = self._encoder, len(self)
        replicas = encoder.num_replicas
        rollout = Rollout(
            features=np.zeros((count + 1, replicas, encoder.replica_dimension), np.float32),
            contexts=np.zeros((count + 1, encoder.context_dimension), np.float32),
            masks=np.ones((count + 1, replicas), np.bool_),
            actions=np.array([replica for replica, *_ in self._decided], np.int64),
            log_probabilities=np.zeros(count),
            costs=np.zeros((count, COST_PARTS)),
            all_costs=np.array(self._all_costs).reshape(-1, replicas, COST_PARTS),
            decided_at=np.zeros(count + 1),
            outstanding=np.zeros((count, replicas)),
            requests=np.array([request for _, request, *_ in self._decided], np.int64),
            ended=ended,
        )
        for row, (x, context, available, now) in enumerate(self._seen):
            rollout.features[row], rollout.contexts[row], rollout.masks[row] = x, context, available
            rollout.decided_at[row] = now
        for row, (_, _, costs, outstanding) in enumerate(self._decided):
            rollout.costs[row], rollout.outstanding[row] = costs, outstanding
        return rollout
