"""What a policy trains on: clusters, lengths, arrivals, loads and betas to draw episodes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl.simulate.rollout import Plans
from vidur.compare.capacity import middle_rate
from vidur.config import SimulationConfig
from vidur.config.document import parse_yaml
from vidur.data_files import data_path
from vidur.engine import layout as at
from vidur.engine.simulation import Simulation
from vidur.engine.state import EngineOptions, EngineState
from vidur.errors import InputError, unknown_name
from vidur.request_generator import RequestTable
from vidur.request_generator.quantile_table import QuantileTable, load_quantile_table
from vidur.scheduler.global_scheduler.base import ChooseKernel
from vidur.scheduler.global_scheduler.least_tokens import choose_least_tokens
from vidur.scheduler.observation import DECODE_SECONDS, Floats

Range = tuple[float, float]


@dataclass(frozen=True)
class TrainingCluster:
    name: str
    weight: float
    config: SimulationConfig


@dataclass(frozen=True)
class TrainingLengths:
    distribution: str
    weight: float
    prompt_scale: Range
    output_scale: Range
    table: QuantileTable


@dataclass(frozen=True)
class Episode:
    """One simulation to be: its cluster (a name and an index into `TrainingSuite.clusters`), requests and events.

    time_unit: seconds of a decode iteration of the fastest replica.
    """

    name: str
    plans: Plans
    requests: RequestTable
    events: Floats
    beta: float
    time_unit: float

    def run(
        self, choose: ChooseKernel, memory: Floats, queue_depth: int, rng: np.random.Generator | None = None
    ) -> EngineState:
        """Simulate it to the end under a router that is a kernel; the engine as it is then. rng: for its draws."""
        plans = self.plans
        options = EngineOptions(
            record_rows=False,
            gauge_interval=plans.gauge_interval,
            queue_depth=queue_depth,
            memory=memory,
            draws=np.zeros((0, 2)) if rng is None else rng.random((len(self.requests), 2)),
        )
        engine = EngineState(self.requests, plans.replicas, plans.hardware, self.events, options)
        Simulation(engine, plans.policy).run(choose)
        return engine


@dataclass
class TrainingSuite:
    """Read from data/training/*.yaml by `load`; every key is in default.yaml, with a comment."""

    clusters: tuple[TrainingCluster, ...]
    lengths: tuple[TrainingLengths, ...]
    max_tokens: int
    load: Range
    poisson_share: float
    gamma_cv: Range
    beta: Range
    slow_share: float
    slow_factor: Range
    requests: int
    _plans: dict[str, Plans] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> TrainingSuite:
        """The suite of a name in data/training, or of a YAML file. Raises InputError."""
        path = Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else data_path("training") / f"{name}.yaml"
        if not path.is_file():
            shipped = [file.stem for file in data_path("training").glob("*.yaml")]
            raise unknown_name("training suite (a name in data/training, or a YAML file)", name, shipped)
        return cls.of(parse_yaml(path.read_text(encoding="utf-8"), path), str(path))

    @classmethod
    def of(cls, document: Any, where: str) -> TrainingSuite:
        keys = {
            "base", "clusters", "lengths", "max_tokens", "load", "poisson_share", "gamma_cv", "beta", "slow_share",
            "slow_factor", "requests",
        }  # fmt: skip
        given = _mapping(document, where, keys, required=keys - {"base"})
        base = dict(given.get("base") or {})
        clusters = tuple(
            _cluster(item, base, f"{where}: clusters[{i}]")
            for i, item in enumerate(_list(given["clusters"], f"{where}: clusters"))
        )
        lengths = tuple(
            _lengths(item, f"{where}: lengths[{i}]")
            for i, item in enumerate(_list(given["lengths"], f"{where}: lengths"))
        )
        return cls(
            clusters,
            lengths,
            max_tokens=int(_number(given["max_tokens"], f"{where}: max_tokens", 2)),
            load=_range(given["load"], f"{where}: load"),
            poisson_share=_number(given["poisson_share"], f"{where}: poisson_share", 0, 1),
            gamma_cv=_range(given["gamma_cv"], f"{where}: gamma_cv"),
            beta=_range(given["beta"], f"{where}: beta"),
            slow_share=_number(given["slow_share"], f"{where}: slow_share", 0, 1),
            slow_factor=_range(given["slow_factor"], f"{where}: slow_factor"),
            requests=int(_number(given["requests"], f"{where}: requests", 1)),
        )

    @property
    def max_replicas(self) -> int:
        return max(cluster.config.cluster_config.num_replicas for cluster in self.clusters)

    def plans(self, cluster: TrainingCluster) -> Plans:
        """The plans of a cluster, for requests of up to `max_tokens`; made once."""
        if cluster.name not in self._plans:
            half = np.full(1, self.max_tokens // 2)
            longest = RequestTable.of(np.zeros(1), half, self.max_tokens - half, "the longest request")
            self._plans[cluster.name] = Plans.of(cluster.config, longest)
        return self._plans[cluster.name]

    def draw(self, rng: np.random.Generator) -> Episode:
        """An episode. The same generator state gives the same one."""
        cluster = self.clusters[_weighted([item.weight for item in self.clusters], rng)]
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
            slow = np.array([[start, replica, at.SLOW, factor], [end, replica, at.SLOW, 1.0]])
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
        """Prompts and outputs that every replica of the cluster can hold."""
        lengths = self.lengths[_weighted([item.weight for item in self.lengths], rng)]
        prompts, outputs = lengths.table.sample(self.requests, rng)
        longest = min(self.max_tokens, *(plan.max_request_tokens for plan in plans.replicas))
        outputs = np.clip(np.rint(outputs * rng.uniform(*lengths.output_scale)), 1, longest // 2).astype(np.int64)
        prompts = np.maximum(np.rint(prompts * rng.uniform(*lengths.prompt_scale)), 1).astype(np.int64)
        most = np.minimum(longest - outputs, min(plan.max_prompt_tokens for plan in plans.replicas))
        return np.minimum(prompts, most), outputs


def capacity(plans: Plans, prompts: Any, outputs: Any) -> float:
    """Requests per second that the cluster completes when all of them are there from the start.

    Under least_tokens, over the middle half of the completions.
    """
    table = RequestTable.of(np.zeros(len(prompts)), prompts, outputs, "capacity")
    options = EngineOptions(record_rows=False, observed=1, memory=np.array([-1.0, float(outputs.mean())]))
    engine = EngineState(table, plans.replicas, plans.hardware, np.zeros((0, 4)), options)
    Simulation(engine, plans.policy).run(choose_least_tokens)
    return middle_rate(engine.times[:, at.COMPLETED])


def _cluster(item: Any, base: Mapping[str, Any], where: str) -> TrainingCluster:
    given = _mapping(item, where, {"name", "weight", "cluster_config"}, required={"name", "cluster_config"})
    document = {**base, "cluster_config": {**base.get("cluster_config", {}), **given["cluster_config"]}}
    try:
        config = SimulationConfig.from_dict(document)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return TrainingCluster(str(given["name"]), _number(given.get("weight", 1.0), f"{where}: weight", 0), config)


def _lengths(item: Any, where: str) -> TrainingLengths:
    keys = {"distribution", "weight", "prompt_scale", "output_scale"}
    given = _mapping(item, where, keys, required={"distribution"})
    name = str(given["distribution"])
    return TrainingLengths(
        name,
        _number(given.get("weight", 1.0), f"{where}: weight", 0),
        _range(given.get("prompt_scale", [1, 1]), f"{where}: prompt_scale"),
        _range(given.get("output_scale", [1, 1]), f"{where}: output_scale"),
        load_quantile_table(name, f"{where}: distribution"),
    )


def _weighted(weights: Sequence[float], rng: np.random.Generator) -> int:
    return int(rng.choice(len(weights), p=np.array(weights) / np.sum(weights)))


def _mapping(value: Any, where: str, keys: set[str], required: set[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected keys and values")
    for key in value:
        if key not in keys:
            raise unknown_name(f"{where}: key", str(key), keys)
    for key in sorted(required):
        if key not in value:
            raise InputError(f"{where}: {key} is missing")
    return dict(value)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: expected a list of at least one")
    return value


def _number(value: Any, where: str, least: float, most: float = np.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise InputError(f"{where}: expected a number from {least} to {most}, not {value!r}")
    return float(value)


def _range(value: Any, where: str) -> Range:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{where}: expected [least, most], not {value!r}")
    low, high = (_number(end, where, 0.0) for end in value)
    if not 0 < low <= high:
        raise InputError(f"{where}: expected 0 < least <= most, not {value!r}")
    return low, high
