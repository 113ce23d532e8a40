"""Collect the states that a policy visits, with the cost of every choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.reward.cost import costs_of
from rl.router.policy import PolicyWeights
from rl.simulate.rollout import Plans, RunningSimulation
from rl.train.suite import TrainingSuite
from vidur.config import SimulationConfig
from vidur.engine.engine import Engine
from vidur.engine.foresight import COST_E2E, COST_TTFT
from vidur.engine.plan import EngineOptions
from vidur.engine.simulation import Simulation
from vidur.errors import InputError, unknown_name
from vidur.observation import (
    ARRIVAL_PROMPT,
    AWAITING,
    AWAITING_TOKENS,
    DECODE_SECONDS,
    GAUGE_COLUMNS,
    HISTOGRAM_COUNTS,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_COLUMNS,
    SPEED,
    Floats,
)
from vidur.request_generator import RequestTable, generate_requests
from vidur.scheduler.routers.least_tokens import choose_least_tokens

EPISODE_DECISIONS = 400
# The share of a simulation to skip at its beginning, when the cluster is not busy yet.
_WARM_UP = 0.25
# The most that a choice can cost above the best one.
_MOST = 20.0
# The output tokens that least_tokens expects before any request has completed.
LEAST_TOKENS_PRIOR = 256.0
# Multiplied by this, the scores put all probability on the highest one, as in serving.
_SHARP = 1e6


@dataclass(frozen=True)
class States:
    """N decisions in a cluster of R replicas.

    replicas float64[N, R, P]: the ledger, the gauges and the hardware side by side (gauge_column, hardware_column). So
    that each column can vary alone, OUTSTANDING is without AWAITING, and PROMPT_TOKENS without AWAITING_TOKENS.
    requests float64[N, Q]: the arrival, then the totals of completed requests. available bool[N, R]. costs [N, R]: of
    each choice above the best one (rl.reward.cost); e2e, ttft [N, R]: its growth of the sums over all requests, in
    seconds. actions int64[N]: the policy's choices; least_tokens_actions int64[N]: where least_tokens placed the same
    requests in its own simulation; episode int64[N]: the number of the simulation.
    """

    cluster: str
    queue_depth: int
    beta: float
    replicas: Floats
    requests: Floats
    available: NDArray[np.bool_]
    costs: Floats
    e2e: Floats
    ttft: Floats
    actions: NDArray[np.int64]
    least_tokens_actions: NDArray[np.int64]
    episode: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.replicas)

    @property
    def prompts(self) -> Floats:
        """Prompts of the arriving requests [N], in tokens."""
        prompts: Floats = self.requests[:, ARRIVAL_PROMPT]
        return prompts

    def of(self, column: int) -> Floats:
        """Return a column of `replicas` [N, R]."""
        values: Floats = self.replicas[:, :, column]
        return values

    @property
    def outstanding(self) -> Floats:
        return self.of(OUTSTANDING) + self.of(AWAITING)

    @property
    def prompt_tokens(self) -> Floats:
        return self.of(PROMPT_TOKENS) + self.of(AWAITING_TOKENS)

    @property
    def speed(self) -> Floats:
        return self.of(hardware_column(SPEED, self.queue_depth))

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> States:
        arrays: dict[str, Any] = {
            name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return dataclasses.replace(self, **arrays)


def gauge_column(column: int, queue_depth: int) -> int:
    """Return the column of a gauge in `States.replicas`."""
    return LEDGER_COLUMNS + QUEUE_COLUMNS * queue_depth + column


def hardware_column(column: int, queue_depth: int) -> int:
    """Return the column of a hardware figure in `States.replicas`."""
    return gauge_column(GAUGE_COLUMNS, queue_depth) + column


@dataclass(frozen=True)
class Source:
    """A simulation to collect states from. events: by default those of the plans."""

    cluster: str
    plans: Plans
    requests: RequestTable
    events: Floats | None

    def begin(self, queue_depth: int, beta: float) -> RunningSimulation:
        return RunningSimulation.of(self.plans, self.requests, queue_depth, beta, self.events)

    def placements(self) -> NDArray[np.int64]:
        """Return the replica on which least_tokens places each request."""
        plans, events = self.plans, self.plans.events if self.events is None else self.events
        options = EngineOptions(
            record_rows=False, gauge_interval=plans.gauge_interval, memory=np.array([-1.0, LEAST_TOKENS_PRIOR])
        )
        engine = Engine(self.requests, plans.replicas, plans.hardware, events, options)
        Simulation(engine, plans.batcher).run(choose_least_tokens)
        placed: NDArray[np.int64] = engine.requests["replica"]
        return placed


def sources(config: str | None, suite: TrainingSuite, count: int, seed: int) -> Iterator[Source]:
    """Yield `count` simulations of the suite's clusters in turns, or of the cluster named `config`, or one of a file.

    Raises InputError for an unknown name, or a configuration that cannot be simulated.
    """
    if config is not None and (config.endswith((".yaml", ".yml", ".json")) or "/" in config):
        simulated = SimulationConfig.from_file(config)
        requests = generate_requests(simulated.request_generator_config)
        yield Source(config, Plans.of(simulated, requests), requests, None)
        return
    clusters = suite.clusters
    if config is not None:
        clusters = tuple(cluster for cluster in clusters if cluster.name == config)
        if not clusters:
            names = [cluster.name for cluster in suite.clusters]
            raise unknown_name("--config (a YAML file, or a cluster of the suite)", config, names)
    for number in range(count):
        cluster = clusters[number % len(clusters)]
        episode = suite.draw(np.random.default_rng([seed, number]), only=cluster)
        yield Source(cluster.name, episode.plans, episode.requests, episode.events)


def collect(
    weights: PolicyWeights, queue_depth: int, config: str | None, suite: TrainingSuite, beta: float, decisions: int,
    seed: int,
) -> list[States]:  # fmt: skip
    """Collect about `decisions` states, by cluster, that the policy visits as it always takes the highest score.

    Raises InputError if a cluster has one replica, or if a request does not fit its replica.
    """
    by_cluster: dict[str, list[States]] = {}
    count = -(-decisions // EPISODE_DECISIONS)
    for number, source in enumerate(sources(config, suite, count, seed)):
        if len(source.plans.replicas) < 2:
            raise InputError(f"{source.cluster} has one replica, so there is nothing to choose")
        wanted = min(decisions, EPISODE_DECISIONS if source.events is not None else decisions)
        rng = np.random.default_rng([seed, number, 1])
        states = _observe(source, weights, queue_depth, beta, wanted, number, rng)
        if states is not None:
            by_cluster.setdefault(source.cluster, []).append(states)
    if not by_cluster:
        raise InputError("no decision was left after the warm-up: simulate more requests")
    return [_concatenate(parts) for parts in by_cluster.values()]


def sharpened(weights: PolicyWeights) -> PolicyWeights:
    """Return the policy that takes the highest score with certainty, and breaks ties at random."""
    return dataclasses.replace(
        weights,
        score=_SHARP * weights.score,
        products=_SHARP * weights.products,
        products_by_beta=_SHARP * weights.products_by_beta,
    )


def _observe(
    source: Source, weights: PolicyWeights, queue_depth: int, beta: float, decisions: int, episode: int,
    rng: np.random.Generator,
) -> States | None:  # fmt: skip
    simulation = source.begin(queue_depth, beta)
    memory = sharpened(weights).memory(simulation.beta, True)
    skipped = int(_WARM_UP * simulation.num_requests)
    simulation.roll(memory, skipped, rng)
    decisions = min(decisions, simulation.num_requests - skipped)
    engine = simulation.engine
    rows: list[tuple[Floats, Floats, NDArray[np.bool_], Floats, int, int]] = []
    for _ in range(decisions):
        replicas = np.concatenate([engine.books.observed, engine.books.gauges, engine.books.hardware], 1)
        replicas[:, OUTSTANDING] -= replicas[:, AWAITING]
        replicas[:, PROMPT_TOKENS] -= replicas[:, AWAITING_TOKENS]
        requests = np.concatenate([engine.books.arrival, engine.books.completions[0, :HISTOGRAM_COUNTS]])
        available = engine.books.available > 0
        rollout = simulation.roll(memory, 1, rng, labels=True)
        if not len(rollout):
            break
        # Skip states with a single choice, or with one that would be refused.
        if available.sum() > 1 and np.isfinite(rollout.all_costs[0, available]).all():
            rows.append(
                (replicas, requests, available, rollout.all_costs[0], int(rollout.actions[0]), int(rollout.requests[0]))
            )
    if not rows:
        return None
    replicas, requests, available, parts, actions, numbers = (np.array(values) for values in zip(*rows, strict=True))
    parts = np.where(available[:, :, None], parts, np.nan)
    costs = costs_of(parts, beta, float(engine.books.hardware[:, DECODE_SECONDS].min()))
    costs = np.minimum(costs - np.nanmin(costs, 1, keepdims=True), _MOST)
    return States(
        source.cluster, queue_depth, beta, replicas, requests, available, np.nan_to_num(costs),
        np.nan_to_num(parts[:, :, COST_E2E]), np.nan_to_num(parts[:, :, COST_TTFT]), actions,
        source.placements()[numbers], np.full(len(actions), episode),
    )  # fmt: skip


def _concatenate(parts: Sequence[States]) -> States:
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
        if isinstance(value, np.ndarray)
    }
    return dataclasses.replace(parts[0], **arrays)
