"""A whole sweep in one YAML file: the flags of python -m vidur.compare as keys, and `scenarios`, a list of entries.

An entry is the name of a scenario, or a mapping: `scenario` (a name, a file, or a whole one's header), `name`, `title`,
`load`, `qps`, `replicas`, `without` (names of schedulers that are left out), and keys of a configuration of vidur.main
that go over the scenario's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidur.compare.config import CompareConfig
from vidur.compare.scenario import Scenario, read_scenario_document
from vidur.config.base import settings_of
from vidur.config.document import TOP_LEVEL, parse_yaml
from vidur.data_files import data_path
from vidur.errors import InputError, unknown_name

# Where things run and are written is not the sweep's.
_NOT_OF_SWEEPS = ("scenario", "executor", "ray_address", "workers", "output", "markdown", "json")
_GRID = ("load", "qps", "replicas")
_ENTRY = ("scenario", "name", "title", "without", *_GRID)


@dataclass(frozen=True)
class Entry:
    """A scenario of a sweep, with the loads (or rates) and numbers of replicas that the file gives; None: its own.
    without: names of schedulers that are left out here."""

    scenario: Scenario
    loads: tuple[float, ...] | None = None
    rates: tuple[float, ...] | None = None
    replicas: tuple[int, ...] | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepFile:
    """flags: values, as text, of those of CompareConfig that the file gives."""

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
        document = parse_yaml(path.read_text(encoding="utf-8"), path)
        if not isinstance(document, Mapping) or not isinstance(document.get("scenarios"), list):
            hint = "; a scenario is given by --scenario" if "scenario" in (document or ()) else ""
            raise InputError(f"{path}: the key scenarios is missing: a list of scenarios{hint}")
        items = {item.name: item for item in settings_of(CompareConfig) if item.name not in _NOT_OF_SWEEPS}
        for key in document:
            if key not in items and key not in ("title", "scenarios"):
                raise unknown_name(f"key in {path}:", str(key), [*items, "title", "scenarios"])
        flags = {}
        for key, item in items.items():
            if key in document and key not in _GRID:
                value = document[key]
                flags[key] = _text(value) if item.type is str else value
        shared = {key: document[key] for key in _GRID if key in document}
        entries = tuple(
            _entry(value, shared, f"{path}: scenarios[{place}]") for place, value in enumerate(document["scenarios"])
        )
        return cls(str(document.get("title", path.stem)), flags, entries)


def _entry(value: Any, shared: Mapping[str, Any], where: str) -> Entry:
    given = {"scenario": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or "scenario" not in given:
        raise InputError(f"{where}: expected the name of a scenario, or a mapping with the key scenario")
    for key in given:
        if key not in _ENTRY and key not in TOP_LEVEL:
            raise unknown_name(f"key in {where}:", str(key), [*_ENTRY, *TOP_LEVEL])
    base = given["scenario"]
    document: Any = {"scenario": base}
    name = None
    if isinstance(base, str):
        path, document = read_scenario_document(base)
        name = path.stem
    name = given.get("name", name)
    if not isinstance(name, str) or not isinstance(document, Mapping):
        raise InputError(f"{where}: name is missing: give what the scenario is called")
    document = _merged(document, {key: item for key, item in given.items() if key in TOP_LEVEL})
    if "title" in given and isinstance(document.get("scenario"), Mapping):
        document = {**document, "scenario": {**document["scenario"], "title": str(given["title"])}}
    grid = {**shared, **{key: given[key] for key in _GRID if key in given}}
    if "load" in given or "qps" in given:
        grid = {key: item for key, item in grid.items() if key in given or key == "replicas"}
    if "load" in grid and "qps" in grid:
        raise InputError(f"{where}: load and qps are two ways to say one thing: give one of them")
    return Entry(
        Scenario.of(document, name, where),
        _numbers(grid, "load", where),
        _numbers(grid, "qps", where),
        None if (found := _numbers(grid, "replicas", where, whole=True)) is None else tuple(map(int, found)),
        _words(given.get("without", []), f"{where}: without"),
    )


def _merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `document`, mapping by mapping; a mapping with another `type` replaces the one that was."""
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            same = value.get("type", old.get("type")) == old.get("type")
            merged[key] = _merged(old, value) if same else value
        else:
            merged[key] = value
    return merged


def _numbers(grid: Mapping[str, Any], key: str, where: str, whole: bool = False) -> tuple[float, ...] | None:
    if key not in grid:
        return None
    values = grid[key] if isinstance(grid[key], list) else [grid[key]]
    for value in values:
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < float("inf"):
            what = "a whole number" if whole else "a number"
            raise InputError(f"{where}: {key}: expected {what} above 0, or a list of such, not {value!r}")
    return tuple(dict.fromkeys(values))


def _words(value: Any, where: str) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{where}: expected a name, or a list of names, not {value!r}")
    return tuple(words)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
