"""Scenarios: a cluster, a workload and a load. Files in data/scenarios: a configuration of vidur.main, and beside its
keys one more, `scenario`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidur.compare.capacity import Capacities
from vidur.compare.figures import Objectives
from vidur.compare.workload import has_rate, reseeded, with_rate
from vidur.config import ReplicaEventConfig, SimulationConfig, SyntheticRequestGeneratorConfig
from vidur.config.base import Config, setting
from vidur.config.document import flatten, read
from vidur.config.given import build
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.config.replica_event import ACTIONS
from vidur.data_files import data_path
from vidur.documents import named_document
from vidur.errors import InputError
from vidur.metrics.text import plural
from vidur.request_generator import RequestTable, generate_requests

# --requests is of clusters up to this size; larger ones get more in proportion, for the same time.
REPLICAS_OF_REQUESTS = 4
# Far above its capacity, a cluster has nothing but queues.
GREATEST_LOAD = 2.0


@dataclass(frozen=True)
class ScenarioEvent(Config):
    """As a replica_events entry, at a part of the time over which requests arrive."""

    at: float = setting(dataclasses.MISSING, help="part of the time over which requests arrive", minimum=0, maximum=1)
    replica: int = setting(dataclasses.MISSING, help="the replica's number, from 0", minimum=0)
    action: str = setting(dataclasses.MISSING, help="slow, fail, return, join or drain", choices=ACTIONS)
    factor: float = setting(1.0, help="of slow: multiplies the iteration times", above=0)


@dataclass(frozen=True)
class ScenarioHeader(Config):
    """What `scenario` holds."""

    title: str = setting(dataclasses.MISSING, help="in a few words, without the load")
    load: float = setting(dataclasses.MISSING, help="arrival rate over capacity", above=0, maximum=GREATEST_LOAD)
    ttft: float = setting(1.0, help="seconds that TTFT should meet, for goodput", above=0)
    tpot: float = setting(0.05, help="seconds that TPOT should meet, for goodput", above=0)
    gain: float = setting(0.0, help="percent that mean E2E should be below the best heuristic's", minimum=0)
    adverse: bool = setting(False, help="whether the learned router must not be below the best heuristic here")
    events: tuple[ScenarioEvent, ...] = setting((), help="what befalls replicas")


@dataclass(frozen=True)
class Scenario:
    """One scenario. `config`: its cluster and workload; the rate, the seeds and the number of requests are filled in by
    `configure`. qps: requests per second, in place of the header's load."""

    name: str
    header: ScenarioHeader
    config: SimulationConfig
    qps: float | None = None

    @classmethod
    def read(cls, name: str) -> Scenario:
        """The scenario of a name in data/scenarios, or of a YAML file. Raises InputError."""
        path, document = read_scenario_document(name)
        return cls.of(document, path.stem, str(path))

    @classmethod
    def of(cls, document: Any, name: str, where: str) -> Scenario:
        """Of the contents of a file. Raises InputError naming `where`."""
        if not isinstance(document, Mapping) or not isinstance(document.get("scenario"), Mapping):
            raise InputError(f"{where}: the key scenario is missing: give title and load below it")
        header = read(ScenarioHeader, document["scenario"], f"{where}: scenario")
        config = build(flatten({key: value for key, value in document.items() if key != "scenario"}, where))
        if not has_rate(config.request_generator_config):
            raise InputError(f"{where}: a scenario needs synthetic requests whose intervals have a rate, as poisson")
        return cls(name, header, config)._checked(where)

    @property
    def objectives(self) -> Objectives:
        return Objectives(self.header.ttft, self.header.tpot)

    @property
    def num_replicas(self) -> int:
        return self.config.cluster_config.num_replicas

    @property
    def label(self) -> str:
        """`a93, 4 replicas, 93 % load`."""
        return f"{self.name}, {plural(self.num_replicas, 'replica')}, {self._load_text}"

    @property
    def title(self) -> str:
        """`4 equal replicas, 93 % load`: the header's title, and the load that is run."""
        return f"{self.header.title}, {self._load_text}"

    @property
    def _load_text(self) -> str:
        return f"{100 * self.header.load:g} % load" if self.qps is None else f"{self.qps:g} requests/s"

    def at(self, load: float) -> Scenario:
        """The same at another load."""
        return dataclasses.replace(self, header=dataclasses.replace(self.header, load=load), qps=None)

    def scaled(self, num_replicas: int) -> Scenario:
        """The same on so many replicas; groups grow in proportion. Raises InputError where they cannot."""
        cluster = self.config.cluster_config
        groups = []
        for group in cluster.replica_groups:
            count, rest = divmod(group.num_replicas * num_replicas, cluster.num_replicas)
            if rest or not count:
                sizes = " and ".join(str(one.num_replicas) for one in cluster.replica_groups)
                raise InputError(
                    f"--replicas {num_replicas}: scenario {self.name} has groups of {sizes} replicas, "
                    "which do not grow to that number in proportion"
                )
            groups.append(dataclasses.replace(group, num_replicas=count))
        scaled = dataclasses.replace(cluster, num_replicas=num_replicas, replica_groups=tuple(groups))
        config = dataclasses.replace(self.config, cluster_config=scaled)
        return dataclasses.replace(self, config=config)._checked(f"--replicas {num_replicas}: scenario {self.name}")

    def num_requests(self, requests: int) -> int:
        """Of a simulation, where `requests` are those of a cluster of up to four replicas."""
        return max(requests, round(requests * self.num_replicas / REPLICAS_OF_REQUESTS))

    @cached_property
    def capacity(self) -> float:
        """Requests per second that the cluster keeps up with: see vidur.compare.capacity."""
        return Capacities().of(self.config)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.header.load * self.capacity if self.qps is None else self.qps

    @property
    def load(self) -> float:
        """The rate over the capacity."""
        return self.header.load if self.qps is None else self.qps / self.capacity

    def requests(self, seed: int, requests: int) -> RequestTable:
        """The arrivals and lengths of a seed: every router gets these."""
        return generate_requests(self._workload(seed, requests))

    def configure(self, seed: int, requests: int, router: BaseGlobalSchedulerConfig | None = None) -> SimulationConfig:
        """The simulation of a seed under a router; requests: as of `num_requests`."""
        workload = self._workload(seed, requests)
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

    def _workload(self, seed: int, requests: int) -> SyntheticRequestGeneratorConfig:
        workload = self.config.request_generator_config
        assert isinstance(workload, SyntheticRequestGeneratorConfig)
        return with_rate(reseeded(workload, seed, self.num_requests(requests)), self.rate)

    def _checked(self, where: str) -> Scenario:
        for event in self.header.events:
            if event.replica >= self.num_replicas:
                raise InputError(
                    f"{where}: an event is on replica {event.replica}; the {self.num_replicas} are numbered from 0"
                )
        return self


def read_scenario_document(name: str) -> tuple[Path, Any]:
    """The file, and what is in it, of a name in data/scenarios or of a YAML file. Raises InputError."""
    return named_document("scenario", "scenarios", name)


def scenario_names() -> list[str]:
    """Of the shipped scenarios: by the length of what is before the first number, then as in a dictionary."""
    names = [file.stem for file in data_path("scenarios").glob("*.yaml") if _is_scenario(file)]
    return sorted(names, key=lambda name: [part.zfill(4) for part in re.split(r"(\d+)", name)])


def _is_scenario(file: Path) -> bool:
    return re.search(r"^scenario:", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
