"""A training suite draws episodes from clusters, request lengths, arrivals, loads and betas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rl.simulate.rollout import Plans
from vidur.compare.capacity import middle_rate
from vidur.config import SimulationConfig
from vidur.config.base import Config, setting
from vidur.config.document import read
from vidur.documents import named_document, short
from vidur.engine.cluster import SLOW
from vidur.engine.engine import Engine
from vidur.engine.plan import EngineOptions
from vidur.engine.simulation import Simulation
from vidur.errors import InputError
from vidur.observation import DECODE_SECONDS, Floats
from vidur.request_generator import RequestTable
from vidur.request_generator.quantile_table import QuantileTable, load_quantile_table
from vidur.scheduler.routers.base import ChooseKernel
from vidur.scheduler.routers.least_tokens import choose_least_tokens


class Range(NamedTuple):
    """The least and the greatest value of what is drawn, both above 0."""

    low: float
    high: float

    @classmethod
    def of_document(cls, value: Any, where: str) -> Range:
        """Read `[least, most]`."""
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in value)
            or not 0 < value[0] <= value[1] < math.inf
        ):
            raise InputError(f"{where}: expected [least, most], 0 < least <= most, not {short(value)}")
        return cls(float(value[0]), float(value[1]))


@dataclass(frozen=True)
class TrainingCluster(Config):
    """A cluster of a suite, whose settings override those of the suite's base."""

    name: str = setting(MISSING, help="name of the cluster")
    cluster_config: dict[str, Any] = setting(MISSING, help="as in a configuration of vidur.main")
    weight: float = setting(1.0, help="relative frequency", minimum=0)


@dataclass(frozen=True)
class TrainingLengths(Config):
    """A distribution of request lengths of a suite."""

    distribution: str = setting(MISSING, help="a name in data/workloads, or a file of quantiles")
    weight: float = setting(1.0, help="relative frequency", minimum=0)
    prompt_scale: Range = setting(Range(1.0, 1.0), help="factor of an episode's prompts")
    output_scale: Range = setting(Range(1.0, 1.0), help="factor of an episode's outputs")

    @cached_property
    def table(self) -> QuantileTable:
        return load_quantile_table(self.distribution, self.flag("distribution"))

    def check(self) -> None:
        _ = self.table


@dataclass(frozen=True)
class Episode:
    """The inputs of one simulation. name: of the cluster; time_unit: seconds of a decode iteration."""

    name: str
    plans: Plans
    requests: RequestTable
    events: Floats
    beta: float
    time_unit: float

    def run(
        self, choose: ChooseKernel, memory: Floats, queue_depth: int, rng: np.random.Generator | None = None
    ) -> Engine:
        """Simulate the episode with a router's kernel and return the engine at the end. rng: for the router's draws."""
        plans = self.plans
        options = EngineOptions(
            record_rows=False,
            gauge_interval=plans.gauge_interval,
            queue_depth=queue_depth,
            memory=memory,
            draws=np.zeros((0, 2)) if rng is None else rng.random((len(self.requests), 2)),
        )
        engine = Engine(self.requests, plans.replicas, plans.hardware, self.events, options)
        Simulation(engine, plans.batcher).run(choose)
        return engine


@dataclass(frozen=True)
class TrainingSuite(Config):
    """The distribution of training episodes; data/training/default.yaml explains every key."""

    clusters: tuple[TrainingCluster, ...] = setting(MISSING, help="a list of clusters")
    lengths: tuple[TrainingLengths, ...] = setting(MISSING, help="a list of distributions of lengths")
    max_tokens: int = setting(MISSING, help="tokens of a request, above which its prompt is cut", minimum=2)
    load: Range = setting(MISSING, help="share of the measured capacity")
    poisson_share: float = setting(
        MISSING, help="share of episodes with Poisson arrivals; the others have Gamma gaps", minimum=0, maximum=1
    )
    gamma_cv: Range = setting(MISSING, help="coefficient of variation of the Gamma gaps")
    beta: Range = setting(MISSING, help="weight of the tail of TTFT, log-uniform")
    slow_share: float = setting(MISSING, help="share of episodes in which a replica slows down", minimum=0, maximum=1)
    slow_factor: Range = setting(MISSING, help="factor of the slow replica's times")
    requests: int = setting(MISSING, help="requests per episode", minimum=1)
    base: dict[str, Any] | None = setting(None, help="a configuration of vidur.main, which each cluster changes")

    @classmethod
    def read(cls, name: str) -> TrainingSuite:
        """Read the suite of a name in data/training, or of a YAML file. Raises InputError."""
        path, document = named_document("training suite", "training", name)
        return read(cls, document, str(path))

    def check(self) -> None:
        for name in ("clusters", "lengths"):
            if not getattr(self, name):
                raise InputError(f"{self.flag(name)}: expected a list of at least one")
        _ = self.configs

    @cached_property
    def configs(self) -> dict[str, SimulationConfig]:
        """The configuration of each cluster, by name."""
        base, configs = dict(self.base or {}), {}
        for index, cluster in enumerate(self.clusters):
            document = {**base, "cluster_config": {**base.get("cluster_config", {}), **cluster.cluster_config}}
            try:
                configs[cluster.name] = SimulationConfig.from_dict(document)
            except InputError as error:
                raise InputError(f"{self.flag('clusters')}[{index}]: {error}") from None
        return configs

    @property
    def max_replicas(self) -> int:
        return max(config.cluster_config.num_replicas for config in self.configs.values())

    @cached_property
    def _plans(self) -> dict[str, Plans]:
        return {}

    def plans(self, cluster: TrainingCluster) -> Plans:
        """Return the plans of a cluster for requests of up to `max_tokens`, which are made once."""
        if cluster.name not in self._plans:
            half = np.full(1, self.max_tokens // 2)
            longest = RequestTable.of(np.zeros(1), half, self.max_tokens - half, "the longest request")
            self._plans[cluster.name] = Plans.of(self.configs[cluster.name], longest)
        return self._plans[cluster.name]

    def draw(self, rng: np.random.Generator, only: TrainingCluster | None = None) -> Episode:
        """Draw an episode, of the cluster `only` if given. The same generator state gives the same episode."""
        clusters = self.clusters if only is None else (only,)
        cluster = clusters[_weighted([item.weight for item in clusters], rng)]
        plans = self.plans(cluster)
        prompts, outputs = self._draw_lengths(plans, rng)
        gaps = rng.exponential(size=self.requests)
        if rng.random() >= self.poisson_share:
            shape = 1.0 / rng.uniform(*self.gamma_cv) ** 2
            gaps = rng.gamma(shape, 1.0 / shape, size=self.requests)
        rate = rng.uniform(*self.load) * capacity(plans, prompts, outputs)
        arrivals = np.cumsum(gaps) / rate
        events = plans.events
        if rng.random() < self.slow_share:
            start, end = np.sort(rng.uniform(0.0, arrivals[-1], 2))
            replica, factor = rng.integers(len(plans.replicas)), rng.uniform(*self.slow_factor)
            slow = np.array([[start, replica, SLOW, factor], [end, replica, SLOW, 1.0]])
            events = np.concatenate([events, slow])[np.argsort([*events[:, 0], start, end], kind="stable")]
        return Episode(
            name=cluster.name,
            plans=plans,
            requests=RequestTable.of(arrivals, prompts, outputs, f"training, {cluster.name}"),
            events=events,
            beta=float(np.exp(rng.uniform(*np.log(self.beta)))),
            time_unit=float(plans.facts[:, DECODE_SECONDS].min()),
        )

    def _draw_lengths(self, plans: Plans, rng: np.random.Generator) -> tuple[Any, Any]:
        """Draw prompts and outputs that every replica of the cluster can hold."""
        lengths = self.lengths[_weighted([item.weight for item in self.lengths], rng)]
        prompts, outputs = lengths.table.sample(self.requests, rng)
        longest = min(self.max_tokens, *(plan.max_request_tokens for plan in plans.replicas))
        outputs = np.clip(np.rint(outputs * rng.uniform(*lengths.output_scale)), 1, longest // 2).astype(np.int64)
        prompts = np.maximum(np.rint(prompts * rng.uniform(*lengths.prompt_scale)), 1).astype(np.int64)
        most = np.minimum(longest - outputs, min(plan.max_prompt_tokens for plan in plans.replicas))
        return np.minimum(prompts, most), outputs


def capacity(plans: Plans, prompts: Any, outputs: Any) -> float:
    """Return the requests per second that the cluster completes under least_tokens, if all arrive at the start.

    The rate is that of the middle half of the completions.
    """
    table = RequestTable.of(np.zeros(len(prompts)), prompts, outputs, "capacity")
    options = EngineOptions(record_rows=False, observed=1, memory=np.array([-1.0, float(outputs.mean())]))
    engine = Engine(table, plans.replicas, plans.hardware, np.zeros((0, 4)), options)
    Simulation(engine, plans.batcher).run(choose_least_tokens)
    return middle_rate(engine.requests["completed_at"])


def _weighted(weights: Sequence[float], rng: np.random.Generator) -> int:
    return int(rng.choice(len(weights), p=np.array(weights) / np.sum(weights)))
