"""Scenarios: a cluster, a workload and a load. Files in data/scenarios: a configuration of vidur.main, and beside its
keys one more, `scenario`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rl.evaluation_cells import Objectives
from rl.rollout import Plans
from rl.suite import capacity
from vidur.config import (
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    ReplicaEventConfig,
    SimulationConfig,
    StaticRequestIntervalGeneratorConfig,
    SyntheticRequestGeneratorConfig,
)
from vidur.config.base import Config, setting, settings_of
from vidur.config.document import flatten, make_record, parse_yaml, read_value
from vidur.config.given import build
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.data_files import data_path
from vidur.errors import InputError, unknown_name
from vidur.request_generator import generate_requests

# Requests of the measurement of capacity, for each replica, and their seed.
_CAPACITY_REQUESTS, _CAPACITY_SEED = 1000, 0
# --requests is of clusters up to this size; larger ones get more in proportion, for the same time.
REPLICAS_OF_REQUESTS = 4
# Poisson gaps are cut at three times the mean of exponential ones, which shortens them to this.
_POISSON_MEAN_GAP = 1.0 - math.exp(-3.0)


@dataclass(frozen=True)
class ScenarioEvent(Config):
    """As a replica_events entry, at a part of the time over which requests arrive."""

    at: float = setting(dataclasses.MISSING, help="part of the time over which requests arrive", minimum=0, maximum=1)
    replica: int = setting(dataclasses.MISSING, help="the replica's number, from 0", minimum=0)
    action: str = setting(dataclasses.MISSING, help="slow, fail, return, join or drain")
    factor: float = setting(1.0, help="of slow: multiplies the iteration times", above=0)


@dataclass(frozen=True)
class ScenarioHeader(Config):
    """What `scenario` holds."""

    title: str = setting(dataclasses.MISSING, help="in a few words")
    load: float = setting(dataclasses.MISSING, help="arrival rate over capacity", above=0, maximum=2)
    ttft: float = setting(1.0, help="seconds that TTFT should meet, for goodput", above=0)
    tpot: float = setting(0.05, help="seconds that TPOT should meet, for goodput", above=0)
    gain: float = setting(0.0, help="percent that mean E2E should be below the best heuristic's", minimum=0)
    adverse: bool = setting(False, help="whether the learned router must not be below the best heuristic here")
    events: tuple[ScenarioEvent, ...] = setting((), help="what befalls replicas")


@dataclass(frozen=True)
class Scenario:
    """One scenario. `config`: its cluster and workload; the rate, the seeds and the number of requests are filled in by
    `configure`."""

    name: str
    header: ScenarioHeader
    config: SimulationConfig

    @classmethod
    def read(cls, name: str) -> Scenario:
        """The scenario of a name in data/scenarios, or of a YAML file. Raises InputError."""
        path = (
            Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else data_path("scenarios") / f"{name}.yaml"
        )
        if not path.is_file():
            raise unknown_name("scenario (a name in data/scenarios, or a YAML file)", name, scenario_names())
        document = parse_yaml(path.read_text(encoding="utf-8"), path)
        if not isinstance(document, Mapping) or not isinstance(document.get("scenario"), Mapping):
            raise InputError(f"{path}: the key scenario is missing: give title and load below it")
        header = _header(document["scenario"], f"{path}: scenario")
        config = build(flatten({key: value for key, value in document.items() if key != "scenario"}, str(path)))
        workload = config.request_generator_config
        if not isinstance(workload, SyntheticRequestGeneratorConfig) or not isinstance(
            workload.interval_generator_config,
            (PoissonRequestIntervalGeneratorConfig, GammaRequestIntervalGeneratorConfig),
        ):
            raise InputError(f"{path}: a scenario needs synthetic requests with poisson or gamma intervals")
        return cls(path.stem, header, config)

    @property
    def objectives(self) -> Objectives:
        return Objectives(self.header.ttft, self.header.tpot)

    @property
    def num_replicas(self) -> int:
        return self.config.cluster_config.num_replicas

    def num_requests(self, requests: int) -> int:
        """Of a simulation, where `requests` are those of a cluster of up to four replicas."""
        return max(requests, round(requests * self.num_replicas / REPLICAS_OF_REQUESTS))

    @cached_property
    def capacity(self) -> float:
        """Requests per second that the cluster completes under least_tokens when all are there from the start."""
        workload = dataclasses.replace(
            self._workload(_CAPACITY_SEED, _CAPACITY_REQUESTS * self.num_replicas),
            interval_generator_config=StaticRequestIntervalGeneratorConfig(),
        )
        requests = generate_requests(workload)
        plans = Plans.of(self.config, requests)
        return capacity(plans, requests.num_prefill_tokens, requests.num_decode_tokens)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.header.load * self.capacity

    def configure(self, seed: int, requests: int, router: BaseGlobalSchedulerConfig | None = None) -> SimulationConfig:
        """The simulation of a seed under a router; requests: as of `num_requests`."""
        workload = self._workload(seed, self.num_requests(requests))
        intervals: Any = workload.interval_generator_config
        shortened = _POISSON_MEAN_GAP if isinstance(intervals, PoissonRequestIntervalGeneratorConfig) else 1.0
        workload = dataclasses.replace(
            workload, interval_generator_config=dataclasses.replace(intervals, qps=self.rate * shortened)
        )
        cluster = self.config.cluster_config
        if router is not None:
            cluster = dataclasses.replace(cluster, global_scheduler_config=router)
        if self.header.events:
            end = float(generate_requests(workload).arrived_at[-1])
            events = tuple(
                ReplicaEventConfig(time=event.at * end, replica=event.replica, action=event.action, factor=event.factor)
                for event in self.header.events
            )
            cluster = dataclasses.replace(cluster, replica_events=events)
        return dataclasses.replace(
            self.config,
            seed=seed,
            cluster_config=cluster,
            request_generator_config=workload,
            metrics_config=dataclasses.replace(self.config.metrics_config, write_metrics=False),
        )

    def _workload(self, seed: int, count: int) -> SyntheticRequestGeneratorConfig:
        workload = self.config.request_generator_config
        assert isinstance(workload, SyntheticRequestGeneratorConfig)
        return dataclasses.replace(
            workload,
            seed=seed,
            num_requests=count,
            length_generator_config=dataclasses.replace(workload.length_generator_config, seed=seed),
        )


def scenario_names() -> list[str]:
    """Of the shipped scenarios: by the length of what is before the first number, then as in a dictionary."""
    names = [file.stem for file in data_path("scenarios").glob("*.yaml")]
    return sorted(names, key=lambda name: [part.zfill(4) for part in re.split(r"(\d+)", name)])


def _header(given: Mapping[str, Any], where: str) -> ScenarioHeader:
    items = {item.name: item for item in settings_of(ScenarioHeader)}
    for key in given:
        if key not in items:
            raise unknown_name(f"key in {where}:", str(key), items)
    values = {key: read_value(items[key], value, f"{where}.{key}") for key, value in given.items()}
    return make_record(ScenarioHeader, values, where)  # type: ignore[return-value]
