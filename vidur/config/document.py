"""Read and write configurations as nested mappings: YAML files, a run's config.json, `to_dict`."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

from vidur.config.base import Config, PolyConfig, Setting, conform, settings_of
from vidur.config.flag import Flag, all_flags
from vidur.config.given import Given, chosen_type
from vidur.config.simulation import SimulationConfig
from vidur.documents import load_document, short
from vidur.errors import InputError, unknown_name

C = TypeVar("C", bound=Config)
SHORT_KEYS = {
    "replica_groups": "cluster_config_replica_groups",
    "replica_events": "cluster_config_replica_events",
}


def to_document(config: Config) -> dict[str, Any]:
    """Return plain JSON values, nested by field name; `flatten` is the inverse."""
    document: dict[str, Any] = {"type": config.get_type()} if isinstance(config, PolyConfig) else {}
    for item in settings_of(type(config)):
        value = getattr(config, item.name)
        if item.is_part:
            document[item.name] = to_document(value)
        elif item.is_records:
            document[item.name] = [_record_document(record) for record in value]
        else:
            document[item.name] = list(value) if item.many else value
    return document


def _record_document(record: Config) -> dict[str, Any]:
    return {key: value for key, value in to_document(record).items() if value is not None}


def read_document(path: Path, types: Mapping[str, Given] | None = None) -> dict[str, Given]:
    """Read the settings of a YAML or JSON file. `types`: types chosen by flags, which override the file's.

    Raises InputError naming the file, and the key or line.
    """
    document = load_document(path, "--config ")
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise InputError(f"{path}: expected a mapping of settings, not {short(document)}")
    return flatten(document, str(path), types)


def flatten(document: Mapping[str, Any], source: str, types: Mapping[str, Given] | None = None) -> dict[str, Given]:
    """Return values by flag name, converted to their types. Flag names are also valid as top-level keys.

    Raises InputError naming `source` and the dotted key.
    """
    given: dict[str, Given] = {}
    nested = {}
    for key, value in document.items():
        flag = all_flags().get(SHORT_KEYS.get(key, key)) if isinstance(key, str) else None
        if flag is None or key in TOP_LEVEL:
            nested[key] = value
        else:
            given[flag.name] = Given(value_of_flag(flag, value, f"{source}: {key}"))
    flat = dict(given)
    for name, item in _walk(SimulationConfig, nested, source, "", {**given, **(types or {})}):
        if name in flat:
            raise InputError(f"{source}: {name} is given twice, once by its flag's name and once nested")
        given[name] = item
    return given


def value_of_flag(flag: Flag, value: Any, where: str) -> Any:
    if flag.family is None:
        return read_value(flag.item, value, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: expected the name of a type, not {short(value)}")
    flag.family.from_type(value, where)
    return value


def _walk(
    cls: type[Config], document: Any, source: str, path: str, types: Mapping[str, Given]
) -> Iterator[tuple[str, Given]]:
    """Yield each value of `document`, which configures `cls`, by flag name. `path` is empty or ends with a dot."""
    items = {item.name: item for item in settings_of(cls)}
    for key, value in document.items():
        item = items.get(key)
        where = f"{source}: {path}{key}"
        if item is None:
            raise _unknown_key(key, source, path, items)
        if not item.is_part:
            yield cls.flag(key).lstrip("-"), Given(read_value(item, value, where))
            continue
        if isinstance(value, str) and issubclass(item.type, PolyConfig):
            value = {"type": value}
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a mapping of settings, not {short(value)}")
        part, rest = item.type, dict(value or {})
        if issubclass(part, PolyConfig):
            part = chosen_type(part, item.default, types)
            if "type" in rest:
                name = rest.pop("type")
                if not isinstance(name, str):
                    raise InputError(f"{where}.type: expected the name of a type, not {short(name)}")
                part = item.type.from_type(name, f"{where}.type")
                yield item.type.type_flag, Given(name)
        yield from _walk(part, rest, source, f"{path}{key}.", types)


def _unknown_key(key: Any, source: str, path: str, items: Mapping[str, Setting]) -> InputError:
    valid = [path + name for name in items]
    if not path:
        valid += SHORT_KEYS
    return unknown_name(f"key in {source}:", f"{path}{key}", valid)


def read(cls: type[C], document: Any, where: str, **preset: Any) -> C:
    """Read a configuration from a mapping with a key for each setting.

    A setting is a plain value, a list, or another configuration; a class may define `of_document(value, where)` to read
    itself. preset: settings that the document may not give. Raises InputError, naming `where` and the key, if one is
    unknown, missing or out of bounds.
    """
    names = [item.name for item in settings_of(cls) if item.name not in preset]
    check_keys(document, where, names)
    items = {item.name: item for item in settings_of(cls)}
    values = {key: read_value(items[key], value, f"{where}: {key}") for key, value in document.items()}
    return make_record(cls, {**values, **preset}, where)


def check_keys(document: Any, where: str, names: Collection[str]) -> None:
    """Raise InputError unless `document` is a mapping whose keys are all among `names`."""
    if not isinstance(document, Mapping):
        raise InputError(f"{where}: expected keys and values, not {short(document)}")
    for key in document:
        if key not in names:
            raise unknown_name(f"key in {where}:", str(key), names)


def make_record(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Make a configuration from values by name. Raises InputError naming `where` if a required one is missing."""
    for item in settings_of(cls):
        if item.default is MISSING and item.name not in values:
            raise InputError(f"{where}: {item.name} is missing: {item.help}")
    return cls.named(lambda name: f"{where}: {name}", **values)


def read_value(item: Setting, value: Any, where: str) -> Any:
    """Convert a YAML or JSON value to the setting's type. Raises InputError naming `where`."""
    if value is None and item.optional:
        return None
    if item.metadata.get("single") and not isinstance(value, (list, tuple)):
        value = [value]
    if item.many and isinstance(value, (list, tuple)):
        value = tuple(_read_one(item.type, element, f"{where}[{index}]") for index, element in enumerate(value))
    elif not item.many:
        value = _read_one(item.type, value, where)
    return conform(item, value, where)


def _read_one(kind: type[Any], value: Any, where: str) -> Any:
    if hasattr(kind, "of_document"):
        return kind.of_document(value, where)
    return read(kind, value, where) if issubclass(kind, Config) else _plain(kind, value)


def _plain(kind: type[Any], value: Any) -> Any:
    """Correct YAML's reading of unquoted dates (back to text) and of 1e-3 (to a number)."""
    if kind is str and isinstance(value, datetime.date):
        return str(value)
    if kind in (int, float) and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


TOP_LEVEL = frozenset(item.name for item in settings_of(SimulationConfig))
