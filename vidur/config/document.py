"""The configuration as nested mappings: of a YAML file, of a run's config.json, or of `to_dict`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from vidur.config.base import Config, PolyConfig, Setting, conform, settings_of
from vidur.config.flag import Flag, all_flags
from vidur.config.given import Given, chosen_type
from vidur.config.simulation import SimulationConfig
from vidur.errors import InputError, unknown_name

SHORT_KEYS = {
    "replica_groups": "cluster_config_replica_groups",
    "replica_events": "cluster_config_replica_events",
}


def to_document(config: Config) -> dict[str, Any]:
    """Plain JSON values, nested by field name; `flatten` reads it back."""
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
    """What a YAML or JSON file gives. `types`: choices of types that go before the file's.

    Raises InputError naming the file, and the key or line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--config {path}: not a text file in UTF-8") from None
    document = _parse_json(text, path) if path.suffix.lower() == ".json" else parse_yaml(text, path)
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise InputError(f"{path}: expected a mapping of settings, not {_short(document)}")
    return flatten(document, str(path), types)


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None


def parse_yaml(text: str, path: Path) -> Any:
    """The document. Raises InputError, naming the file, for what is not YAML and for a key that is given twice."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys_differ(node, path, set())
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _check_keys_differ(node: Any, path: Path, seen_nodes: set[int]) -> None:
    """Raise InputError if a mapping gives a key twice, which the YAML loader lets pass."""
    if node is not None and isinstance(node.value, list) and id(node) not in seen_nodes:
        seen_nodes.add(id(node))
        seen = set()
        for child in node.value:
            key, value = child if isinstance(child, tuple) else (None, child)
            if key is not None and key.value in seen:
                raise InputError(f"{path}, line {key.start_mark.line + 1}: the key {key.value} is given twice")
            if key is not None and isinstance(key.value, str):
                seen.add(key.value)
            _check_keys_differ(value, path, seen_nodes)


def flatten(document: Mapping[str, Any], source: str, types: Mapping[str, Given] | None = None) -> dict[str, Given]:
    """Values by flag name, conformed to their types. At the top, flag names may stand beside the nested keys.

    Raises InputError naming `source` and the dotted key.
    """
    given: dict[str, Given] = {}
    nested = {}
    for key, value in document.items():
        flag = all_flags().get(SHORT_KEYS.get(key, key)) if isinstance(key, str) else None
        if flag is None or key in TOP_LEVEL:
            nested[key] = value
        else:
            given[flag.name] = Given(_value_of_flag(flag, value, f"{source}: {key}"))
    flat = dict(given)
    for name, item in _walk(SimulationConfig, nested, source, "", {**given, **(types or {})}):
        if name in flat:
            raise InputError(f"{source}: {name} is given twice, once by its flag's name and once nested")
        given[name] = item
    return given


def _value_of_flag(flag: Flag, value: Any, where: str) -> Any:
    if flag.family is None:
        return read_value(flag.item, value, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: expected the name of a type, not {_short(value)}")
    flag.family.from_type(value, where)
    return value


def _walk(
    cls: type[Config], document: Any, source: str, path: str, types: Mapping[str, Given]
) -> Iterator[tuple[str, Given]]:
    """Each value under `document`, which configures `cls`, with its flag's name. `path` is empty or ends with a dot."""
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
            raise InputError(f"{where}: expected a mapping of settings, not {_short(value)}")
        part, rest = item.type, dict(value or {})
        if issubclass(part, PolyConfig):
            part = chosen_type(part, item.default, types)
            if "type" in rest:
                name = rest.pop("type")
                if not isinstance(name, str):
                    raise InputError(f"{where}.type: expected the name of a type, not {_short(name)}")
                part = item.type.from_type(name, f"{where}.type")
                yield item.type.type_flag, Given(name)
        yield from _walk(part, rest, source, f"{path}{key}.", types)


def _unknown_key(key: Any, source: str, path: str, items: Mapping[str, Setting]) -> InputError:
    valid = [path + name for name in items]
    if not path:
        valid += SHORT_KEYS
    return unknown_name(f"key in {source}:", f"{path}{key}", valid)


def read_value(item: Setting, value: Any, where: str) -> Any:
    """A YAML or JSON value in the setting's type. Raises InputError naming `where`."""
    if item.is_records:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where}: expected a list of mappings, not {_short(value)}")
        return tuple(_read_record(item.type, element, f"{where}[{index}]") for index, element in enumerate(value))
    if item.many and isinstance(value, (list, tuple)):
        value = [_plain(item.type, element) for element in value]
    else:
        value = _plain(item.type, value)
    return conform(item, value, where)


def _read_record(cls: type[Config], value: Any, where: str) -> Config:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping, not {_short(value)}")
    items = {item.name: item for item in settings_of(cls)}
    for key in value:
        if key not in items:
            raise unknown_name(f"key in {where}:", str(key), items)
    return make_record(cls, {key: read_value(items[key], value[key], f"{where}.{key}") for key in value}, where)


def make_record(cls: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """A small configuration from its values. Raises InputError naming `where` if a needed one is missing."""
    for item in settings_of(cls):
        if item.default is MISSING and item.name not in values:
            raise InputError(f"{where}: {item.name} is missing: give {item.type_name}")
    return cls(**values)


def _plain(kind: type[Any], value: Any) -> Any:
    """Mend what YAML reads otherwise than a person: an unquoted instant, and 1e-3, which it takes for text."""
    if kind is str and isinstance(value, datetime.date):
        return str(value)
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


TOP_LEVEL = frozenset(item.name for item in settings_of(SimulationConfig))
