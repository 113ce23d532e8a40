"""Scenarios: a cluster, a workload and a load. A file holds a vidur.main configuration plus the key `scenario`."""

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
from vidur.config import ArrivingRequestGeneratorConfig, ReplicaEventConfig, SimulationConfig
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

# --requests applies to clusters up to this size; larger ones get proportionally more, to simulate as long.
REPLICAS_OF_REQUESTS = 4
# Far above its capacity a cluster only builds up queues.
GREATEST_LOAD = 2.0


@dataclass(frozen=True)
class ScenarioEvent(Config):
    """An entry of replica_events whose time is a fraction of the time over which requests arrive."""

    at: float = setting(dataclasses.MISSING, help="fraction of the arrival time span", minimum=0, maximum=1)
    replica: int = setting(dataclasses.MISSING, help="the replica's number, from 0", minimum=0)
    action: str = setting(dataclasses.MISSING, help="slow, fail, return, join or drain", choices=ACTIONS)
    factor: float = setting(1.0, help="multiplies the iteration times (action slow)", above=0)


@dataclass(frozen=True)
class ScenarioHeader(Config):
    """The values of the key `scenario`."""

    title: str = setting(dataclasses.MISSING, help="in a few words, without the load")
    load: float = setting(dataclasses.MISSING, help="arrival rate over capacity", above=0, maximum=GREATEST_LOAD)
    ttft: float = setting(1.0, help="seconds that TTFT should meet, for goodput", above=0)
    tpot: float = setting(0.05, help="seconds that TPOT should meet, for goodput", above=0)
    gain: float = setting(0.0, help="percent by which mean E2E should be below the best heuristic's", minimum=0)
    adverse: bool = setting(False, help="whether the learned router must not be below the best heuristic here")
    events: tuple[ScenarioEvent, ...] = setting((), help="timed events of replicas")


@dataclass(frozen=True)
class Scenario:
    """One scenario. config: its cluster and workload; `configure` fills in rate, seeds and number of requests. qps:
    requests per second, in place of the header's load."""

    name: str
    header: ScenarioHeader
    config: SimulationConfig
    qps: float | None = None

    @classmethod
    def read(cls, name: str) -> Scenario:
        """Read a name in data/scenarios, or a YAML file. Raises InputError."""
        path, document = read_scenario_document(name)
        return cls.of(document, path.stem, str(path))

    @classmethod
    def of(cls, document: Any, name: str, where: str) -> Scenario:
        """Make a scenario from a file's contents. Raises InputError naming `where`."""
        if not isinstance(document, Mapping) or not isinstance(document.get("scenario"), Mapping):
            raise InputError(f"{where}: the key scenario is missing: give title and load below it")
        header = read(ScenarioHeader, document["scenario"], f"{where}: scenario")
        config = build(flatten({key: value for key, value in document.items() if key != "scenario"}, where))
        if not has_rate(config.request_generator_config):
            raise InputError(f"{where}: a scenario needs generated requests whose intervals have a rate, as poisson")
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
        """`4 equal replicas, 93 % load`: the header's title and the load of this run."""
        return f"{self.header.title}, {self._load_text}"

    @property
    def _load_text(self) -> str:
        return f"{100 * self.header.load:g} % load" if self.qps is None else f"{self.qps:g} requests/s"

    def at_load(self, load: float) -> Scenario:
        """Return the scenario at another load."""
        return dataclasses.replace(self, header=dataclasses.replace(self.header, load=load), qps=None)

    def scaled(self, num_replicas: int) -> Scenario:
        """Return the scenario on `num_replicas`; groups grow in proportion. Raises InputError if they cannot."""
        cluster = self.config.cluster_config
        groups = []
        for group in cluster.replica_groups:
            count, rest = divmod(group.num_replicas * num_replicas, cluster.num_replicas)
            if rest or not count:
                sizes = " and ".join(str(item.num_replicas) for item in cluster.replica_groups)
                raise InputError(
                    f"--replicas {num_replicas}: scenario {self.name} has groups of {sizes} replicas, "
                    "which do not grow to that number in proportion"
                )
            groups.append(dataclasses.replace(group, num_replicas=count))
        scaled = dataclasses.replace(cluster, num_replicas=num_replicas, replica_groups=tuple(groups))
        config = dataclasses.replace(self.config, cluster_config=scaled)
        return dataclasses.replace(self, config=config)._checked(f"--replicas {num_replicas}: scenario {self.name}")

    def num_requests(self, requests: int) -> int:
        """Return the requests of a simulation, given those of a cluster of up to four replicas."""
        return max(requests, round(requests * self.num_replicas / REPLICAS_OF_REQUESTS))

    @cached_property
    def capacity(self) -> float:
        """The capacity in requests per second (vidur.compare.capacity)."""
        return Capacities().of(self.config)

    @property
    def rate(self) -> float:
        """The arrival rate in requests per second."""
        return self.header.load * self.capacity if self.qps is None else self.qps

    @property
    def load(self) -> float:
        """The arrival rate over the capacity."""
        return self.header.load if self.qps is None else self.qps / self.capacity

    def requests(self, seed: int, requests: int) -> RequestTable:
        """Generate the arrivals and lengths of a seed, the same for every router."""
        return generate_requests(self._workload(seed, requests))

    def configure(self, seed: int, requests: int, router: BaseGlobalSchedulerConfig | None = None) -> SimulationConfig:
        """Return the configuration of a seed and router. requests: as for `num_requests`."""
        workload = self._workload(seed, requests)
        cluster = self.config.cluster_config
        if router is not None:
            cluster = dataclasses.replace(cluster, global_scheduler_config=router)
        if self.header.events:
            end = float(generate_requests(workload).first_turns_at()[-1])
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

    def _workload(self, seed: int, requests: int) -> ArrivingRequestGeneratorConfig:
        workload = self.config.request_generator_config
        assert isinstance(workload, ArrivingRequestGeneratorConfig)
        return with_rate(reseeded(workload, seed, self.num_requests(requests)), self.rate)

    def _checked(self, where: str) -> Scenario:
        for event in self.header.events:
            if event.replica >= self.num_replicas:
                raise InputError(
                    f"{where}: an event is on replica {event.replica}; the {self.num_replicas} are numbered from 0"
                )
        return self


def read_scenario_document(name: str) -> tuple[Path, Any]:
    """Return path and contents of a name in data/scenarios, or of a YAML file. Raises InputError."""
    return named_document("scenario", "scenarios", name)


def scenario_names() -> list[str]:
    """Return the built-in scenarios in alphabetical order, with numbers in numerical order."""
    names = [file.stem for file in data_path("scenarios").glob("*.yaml") if _is_scenario(file)]
    return sorted(names, key=lambda name: [part.zfill(4) for part in re.split(r"(\d+)", name)])


def _is_scenario(file: Path) -> bool:
    return re.search(r"^scenario:", file.read_text(encoding="utf-8"), re.MULTILINE) is not None
