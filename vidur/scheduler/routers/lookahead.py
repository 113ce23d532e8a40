"""Simulate each replica with and without the request; choose the smallest increase of sum(E2E) + beta * sum(TTFT).

The simulation starts from the observation alone: a request with a first token is in decode, one without waits with the
part of its prompt that is not believed cached, and an output length is its conditional mean given the tokens streamed
so far. No further arrivals are assumed. Needs the engine, hence numba.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vidur.scheduler.compiled  # noqa: F401, registers shared functions with Numba
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, LookaheadGlobalSchedulerConfig
from vidur.engine.engine import Engine, FastRecord, plain
from vidur.engine.plan import EngineOptions, HardwarePlan, ReplicaPlan
from vidur.engine.plug import Batcher
from vidur.engine.simulation import Simulation
from vidur.observation import (
    ARRIVAL_PROMPT,
    BINS_PER_OCTAVE,
    HISTOGRAM_BINS,
    HISTOGRAM_COUNTS,
    HISTOGRAM_SUMS,
    MATCHED_TOKENS,
    ClusterObservation,
    Floats,
    PlacedRequests,
)
from vidur.request_generator import RequestTable
from vidur.scheduler.routers.base import GlobalScheduler, RouterContext
from vidur.scheduler.routers.choice import least
from vidur.scheduler.routers.round_robin import choose_round_robin

_PRIOR_WEIGHT = 5.0


@dataclass(frozen=True)
class ReplicaModel:
    """What simulating a replica needs: the plans of all replicas and hardware groups, and the batcher."""

    replicas: list[ReplicaPlan]
    hardware: list[HardwarePlan]
    batcher: Batcher


def conditional_output(completions: Floats, streamed: NDArray[np.int64], prior: float) -> NDArray[np.int64]:
    """Expected output length of requests that have streamed `streamed` tokens: the mean of longer completed requests,
    smoothed by a prior of `prior` more tokens; at least one more token."""
    counts = completions[HISTOGRAM_COUNTS : HISTOGRAM_COUNTS + HISTOGRAM_BINS]
    sums = completions[HISTOGRAM_SUMS : HISTOGRAM_SUMS + HISTOGRAM_BINS]
    longer_counts = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    longer_sums = np.concatenate([np.cumsum(sums[::-1])[::-1], [0.0]])
    bins = np.zeros(len(streamed), np.int64)
    some = streamed > 0
    bins[some] = np.minimum(BINS_PER_OCTAVE * np.log2(streamed[some]), HISTOGRAM_BINS - 1).astype(np.int64) + 1
    total = _PRIOR_WEIGHT * (streamed + prior) + longer_sums[bins]
    mean = total / (_PRIOR_WEIGHT + longer_counts[bins])
    rounded: NDArray[np.int64] = np.maximum(np.rint(mean).astype(np.int64), streamed + 1)
    return rounded


class _Forward:
    """A replica's engine, reloaded with outstanding requests and run until it is idle."""

    def __init__(self, plan: ReplicaPlan, model: ReplicaModel, capacity: int) -> None:
        ones = np.ones(capacity, np.int64)
        table = RequestTable.of(np.zeros(capacity), ones, ones, "lookahead")
        options = EngineOptions(record_rows=False, observed=0, memory=np.full(1, -1.0))
        self.capacity = capacity
        self.plan = plan
        # What is cached is loaded with the requests; their content is not known here.
        plan = replace(plan, caching=False)
        self.engine = Engine(table, [plan], model.hardware, np.zeros((0, 4)), options)
        self.engine.clock.num_decisions = 0  # no arrivals: all requests are loaded
        self.simulation = Simulation(self.engine, model.batcher)
        self._requests = plain(self.engine.requests)
        self._row: Any = FastRecord(self.engine.state.replicas)
        # Cap lengths at what the tables cover and the replica can hold.
        tables = model.hardware[plan.hardware].tables
        reach = (tables.attn_decode.shape[1] - 1) * tables.kv_granularity
        self._longest = min(plan.max_request_tokens, reach)
        self._clean = self.engine.snapshot()

    def cost(
        self, prompt: NDArray[np.int64], matched: NDArray[np.int64], streamed: NDArray[np.int64],
        started: NDArray[np.bool_], output: NDArray[np.int64], beta: float,
    ) -> float:  # fmt: skip
        """Return sum(E2E) + beta * sum(TTFT) of these requests, in seconds from now.

        matched: their prompt tokens that need no prefill.
        """
        count = len(prompt)
        self._load(prompt, matched, streamed, started, output)
        self.simulation.run(choose_round_robin)
        first, completed = self._requests["first_token_at"][:count], self._requests["completed_at"][:count]
        return float(completed.sum() + beta * first[~started].sum())

    def _load(
        self, prompt: NDArray[np.int64], matched: NDArray[np.int64], streamed: NDArray[np.int64],
        started: NDArray[np.bool_], output: NDArray[np.int64],
    ) -> None:  # fmt: skip
        plan, count = self.plan, len(prompt)
        self.engine.restore(self._clean, count)
        rows = self._requests[:count]
        total = np.minimum(prompt + output, np.maximum(self._longest, prompt + streamed + 1))
        rows["prefill"] = rows["prompt"] = prompt
        rows["total"], rows["output"] = total, total - prompt
        rows["streamed"] = streamed
        rows["admission"] = np.arange(count)
        rows["first_token_at"] = np.where(started, 0.0, np.nan)
        blocks = np.full(count, plan.max_blocks_per_request)
        if plan.grows:
            blocks = -(-(prompt + streamed) // plan.block_size)
        # The ledger does not tell which requests are in the KV-cache; assume the oldest that fit.
        cached = started & (np.cumsum(blocks * started) <= plan.num_blocks)
        cached &= np.cumsum(cached) <= plan.max_admitted
        rows["processed"] = np.where(cached, prompt + streamed, np.where(started, 0, matched))
        rows["prefilled"] = cached
        rows["blocks"] = np.where(cached, blocks, 0)
        if plan.hold_until_batch_ends and cached.any():
            rows["leader"][cached] = int(np.argmax(cached))
        preempted = started & ~cached
        rows["prefill"][preempted] = (prompt + streamed)[preempted]
        self._load_replica(np.flatnonzero(cached), np.flatnonzero(~cached), int(blocks[cached].sum()), count)
        _link(rows, np.arange(count), self._row, "ledger")
        _link(rows, np.flatnonzero(~started), self._row, "await")

    def _load_replica(self, running: NDArray[np.int64], waiting: NDArray[np.int64], allocated: int, count: int) -> None:
        state, row = self.engine.state, self._row
        row.ready = row.admitted = len(running)
        row.admissions = count
        row.allocated = allocated
        state.ready[0, : len(running)] = running
        row.waiting = len(waiting)
        if len(waiting):
            self._requests["wait_next"][waiting] = np.append(waiting[1:], -1)
            row.wait_head, row.wait_tail = waiting[0], waiting[-1]
        state.next_time[0] = 0.0
        if self.plan.stages > 1:
            row.schedule_at = 0.0


def _link(rows: Any, numbers: NDArray[np.int64], replica: Any, name: str) -> None:
    """Link these requests as the replica's list `name`: "ledger" or "await"."""
    if len(numbers):
        rows[f"{name}_prev"][numbers] = np.append(-1, numbers[:-1])
        rows[f"{name}_next"][numbers] = np.append(numbers[1:], -1)
        setattr(replica, f"{name}_head", numbers[0])
        setattr(replica, f"{name}_tail", numbers[-1])


class LookaheadScheduler(GlobalScheduler):
    """The router of this module. beta: weight of sum(TTFT). prior: expected output tokens before any completion."""

    def __init__(self, context: RouterContext, beta: float, prior: float) -> None:
        super().__init__({}, context)
        assert isinstance(context.simulator, ReplicaModel)
        self._model = context.simulator
        self._beta = beta
        self._prior = prior
        self._last = -1
        self._engines: dict[ReplicaPlan, _Forward] = {}

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> LookaheadScheduler:
        assert isinstance(config, LookaheadGlobalSchedulerConfig)
        return cls(context, config.beta, config.expected_output_tokens)

    def marginal_costs(self, observation: ClusterObservation) -> Floats:
        """float64[replicas]: the increase of sum(E2E) + beta * sum(TTFT) in seconds; inf for a replica that is
        unavailable or can never hold the request."""
        return np.array(
            [
                self._marginal_cost(observation, replica) if observation.available[replica] else np.inf
                for replica in range(observation.num_replicas)
            ]
        )

    def schedule(self, observation: ClusterObservation) -> int:
        costs = self.marginal_costs(observation)
        self._last = least(costs, observation.available.astype(np.int64), self._last)
        return self._last

    def _marginal_cost(self, observation: ClusterObservation, replica: int) -> float:
        plan, arriving = self._model.replicas[replica], int(observation.arrival[ARRIVAL_PROMPT])
        if arriving >= plan.max_request_tokens or arriving > plan.max_prompt_tokens:
            return np.inf  # refused
        placed: PlacedRequests = observation.placed(replica)
        count = len(placed.request)
        prompt = np.append(placed.prompt_tokens, arriving)
        known = np.zeros(count, np.int64) if placed.matched_tokens is None else placed.matched_tokens
        matched = np.append(known, int(observation.prefix[replica, MATCHED_TOKENS]) if len(observation.prefix) else 0)
        streamed = np.append(placed.streamed_tokens, 0)
        started = np.append(placed.has_first_token, False)
        output = conditional_output(observation.completions, streamed, self._prior)
        engine = self._engine(replica, count + 1)
        cost = engine.cost(prompt, matched, streamed, started, output, self._beta)
        if np.isnan(cost):
            return np.inf  # never completes
        if count == 0:
            return cost
        return cost - engine.cost(prompt[:-1], matched[:-1], streamed[:-1], started[:-1], output[:-1], self._beta)

    def _engine(self, replica: int, count: int) -> _Forward:
        plan = self._model.replicas[replica]
        engine = self._engines.get(plan)
        if engine is None or engine.capacity < count:
            engine = self._engines[plan] = _Forward(plan, self._model, max(256, 2 * count))
        return engine
