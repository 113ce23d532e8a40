"""Read a sweep from a YAML file: flags of python -m vidur.compare as keys, and `scenarios`, a list of entries.

An entry is the name of a scenario, or a mapping: `scenario` (a name, a file, or a header), `name`, `title`, `load`,
`qps`, `replicas`, `without` (schedulers to leave out), and keys of a vidur.main configuration that override the
scenario's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vidur.compare.config import CompareConfig
from vidur.compare.scenario import Scenario, ScenarioHeader, read_scenario_document
from vidur.compare.workload import rate_of, require_rate
from vidur.config import ArrivingRequestGeneratorConfig, SimulationConfig
from vidur.config.base import Config, setting, settings_of
from vidur.config.document import TOP_LEVEL, check_keys, read
from vidur.data_files import data_path
from vidur.documents import load_document
from vidur.errors import InputError
from vidur.metrics.describe import describe_cluster

# Flags that a sweep file may not set: where simulations run and results are written.
_NOT_OF_SWEEPS = ("scenario", "executor", "ray_address", "workers", "output", "markdown", "json")
_GRID = ("load", "qps", "replicas")
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A scenario of a sweep with its loads (or rates) and numbers of replicas; None: the scenario's own. without:
    schedulers to leave out."""

    scenario: Scenario
    loads: tuple[float, ...] | None = None
    rates: tuple[float, ...] | None = None
    replicas: tuple[int, ...] | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepFile:
    """The contents of a sweep file. flags: values of CompareConfig that it gives."""

    title: str
    flags: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, name: str) -> SweepFile:
        """Of a YAML file, or of a name in data/scenarios. Raises InputError naming the file and key."""
        path = Path(name)
        if not path.is_file() and "/" not in name:
            path = data_path("scenarios") / f"{path.stem}.yaml"
        if not path.is_file():
            raise InputError(f"there is no sweep file {name}: give a YAML file with scenarios in it, or --scenario")
        document = load_document(path)
        if not isinstance(document, Mapping) or not isinstance(document.get("scenarios"), list):
            hint = "; a scenario is given by --scenario" if "scenario" in (document or ()) else ""
            raise InputError(f"{path}: the key scenarios is missing: a list of scenarios{hint}")
        items = {item.name: item for item in settings_of(CompareConfig) if item.name not in _NOT_OF_SWEEPS}
        check_keys(document, str(path), [*items, "title", "scenarios"])
        flags = {}
        for key, item in items.items():
            if key in document and key not in _GRID:
                value = document[key]
                flags[key] = _text(value) if item.type is str else value
        shared = {key: document[key] for key in _GRID if key in document}
        entries = tuple(
            _entry(value, shared, f"{path}: scenarios[{index}]") for index, value in enumerate(document["scenarios"])
        )
        return cls(str(document.get("title", path.stem)), flags, entries)

    @classmethod
    def of(cls, config: SimulationConfig) -> SweepFile:
        """Make a sweep of one configuration, at its own rate unless flags change it. Raises InputError."""
        require_rate(config)
        workload = config.request_generator_config
        assert isinstance(workload, ArrivingRequestGeneratorConfig)
        header = ScenarioHeader(title=describe_cluster(config.cluster_config), load=1.0)
        ttft, tpot = config.slo_ttft or header.ttft, config.slo_tpot or header.tpot
        header = replace(header, ttft=ttft, tpot=tpot)
        scenario = Scenario("configuration", header, config, qps=rate_of(workload))
        return cls("Comparison", {}, (Entry(scenario),))


@dataclass(frozen=True)
class EntryKeys(Config):
    """The keys of an entry, besides those of a vidur.main configuration."""

    scenario: object = setting(MISSING, help="a name in data/scenarios, a file, or a scenario's header")
    name: str | None = setting(None, help="the scenario's name; the file's name if none")
    title: object = setting(None, help="in a few words")
    load: tuple[float, ...] | None = setting(None, help="arrival rates over the capacity", above=0, single=True)
    qps: tuple[float, ...] | None = setting(None, help="arrival rates in requests/s", above=0, single=True)
    replicas: tuple[int, ...] | None = setting(None, help="numbers of replicas", above=0, single=True)
    without: tuple[str, ...] = setting((), help="schedulers to leave out", single=True)


def _entry(value: Any, shared: Mapping[str, Any], where: str) -> Entry:
    given = {"scenario": value} if isinstance(value, str) else value
    check_keys(given, where, [*(item.name for item in settings_of(EntryKeys)), *TOP_LEVEL])
    changes = {key: item for key, item in given.items() if key in TOP_LEVEL}
    keys = {key: item for key, item in given.items() if key not in TOP_LEVEL}
    if "load" in keys or "qps" in keys:
        shared = {key: item for key, item in shared.items() if key == "replicas"}
    entry = read(EntryKeys, {**shared, **keys}, where)
    if entry.load and entry.qps:
        raise InputError(f"{where}: load and qps both set the arrival rate: give one of them")
    document: Any = {"scenario": entry.scenario}
    name = entry.name
    if isinstance(entry.scenario, str):
        path, document = read_scenario_document(entry.scenario)
        name = name or path.stem
    if name is None or not isinstance(document, Mapping):
        raise InputError(f"{where}: name is missing: name the scenario")
    document = _merged(document, changes)
    if entry.title is not None and isinstance(document.get("scenario"), Mapping):
        document = {**document, "scenario": {**document["scenario"], "title": str(entry.title)}}
    scenario = Scenario.of(document, name, where)
    return Entry(scenario, _once(entry.load), _once(entry.qps), _once(entry.replicas), entry.without)


def _once(values: tuple[T, ...] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(dict.fromkeys(values))


def _merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `changes` into `document`, recursively; a mapping with another `type` replaces the old one."""
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            same = value.get("type", old.get("type")) == old.get("type")
            merged[key] = _merged(old, value) if same else value
        else:
            merged[key] = value
    return merged


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
