"""Read YAML and JSON files safely, whatever they contain."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from reprlib import Repr
from typing import Any

from vidur.data_files import data_path
from vidur.errors import InputError, did_you_mean, unknown_name

# Bounds of a YAML file: nesting depth, and number of values.
DEEPEST, MOST_VALUES = 64, 1_000_000


def named_document(kind: str, folder: str, name: str) -> tuple[Path, Any]:
    """Return path and contents of the YAML file `name`, or of data/FOLDER/NAME.yaml.

    kind: for errors, as `training suite`. Raises InputError."""
    shipped = [file.stem for file in data_path(folder).glob("*.yaml")]
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name)
        return path, load_document(path, f"{kind} ", [*map(str, path.parent.glob("*.y*ml")), *shipped])
    path = data_path(folder) / f"{name}.yaml"
    if not path.is_file():
        raise unknown_name(f"{kind} (a name in data/{folder}, or a YAML file)", name, shipped)
    return path, load_document(path)


def load_document(path: Path, prefix: str = "", names: Iterable[str] = ()) -> Any:
    """Return the contents of a YAML or JSON file. Raises InputError, naming file and line, if it is neither.

    prefix: text before the path in errors about reading it. names: names to suggest if it does not exist."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = did_you_mean(str(path), names) or did_you_mean(path.stem, names)
        raise InputError(f"{prefix}{path}: {error.strerror}{hint and f': {hint}?'}") from None
    except OSError as error:
        raise InputError(f"{prefix}{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{prefix}{path}: not a text file in UTF-8") from None
    return parse_json(text, str(path)) if path.suffix.lower() == ".json" else parse_yaml(text, path)


def parse_json(text: str, where: str) -> Any:
    """Parse JSON. Raises InputError naming `where`, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{where}: its values are nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None


def parse_yaml(text: str, path: Path) -> Any:
    """Parse YAML. Raises InputError, naming the file, for bad syntax, a repeated key, or nesting or aliases that would
    exhaust memory."""
    import yaml

    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys_differ(node, path, set())
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _check_size(events: Iterable[Any], path: Path) -> None:
    """Raise InputError for a document that is nested too deeply, or has too many values once aliases are expanded.

    Parser events are not kept, so this needs little memory for any document."""
    sizes: dict[str, int] = {}  # expanded values by anchor
    # Each open collection: its anchor and its values so far.
    open_: list[tuple[str | None, int]] = [(None, 0)]
    for event in events:
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            open_.append((anchor, 1))
            size = 0
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, size = open_.pop()
        elif kind == "ScalarEvent":
            size = 1
        elif kind == "AliasEvent":
            # An alias to an open collection is recursive.
            size = sizes.get(anchor or "", MOST_VALUES + 1 if anchor in [name for name, _ in open_] else 1)
        else:
            continue
        if anchor is not None and kind not in ("AliasEvent", "MappingStartEvent", "SequenceStartEvent"):
            sizes[anchor] = size
        name, before = open_[-1]
        open_[-1] = name, before + size
        line = f"{path}, line {event.start_mark.line + 1}"
        if len(open_) > DEEPEST:
            raise InputError(f"{line}: nested more than {DEEPEST} deep")
        if before + size > MOST_VALUES:
            raise InputError(f"{line}: more than {MOST_VALUES:,} values, or an alias that repeats itself")


def _check_keys_differ(node: Any, path: Path, seen_nodes: set[int]) -> None:
    """Raise InputError if a mapping repeats a key, which the YAML loader accepts, or uses a collection as a key."""
    if node is not None and isinstance(node.value, list) and id(node) not in seen_nodes:
        seen_nodes.add(id(node))
        seen = set()
        for child in node.value:
            key, value = child if isinstance(child, tuple) else (None, child)
            if key is not None:
                line = f"{path}, line {key.start_mark.line + 1}"
                if not isinstance(key.value, str):
                    raise InputError(f"{line}: a key is text, not a list or a mapping")
                if key.value in seen:
                    raise InputError(f"{line}: the key {key.value} is given twice")
                seen.add(key.value)
            _check_keys_differ(value, path, seen_nodes)


def short(value: Any) -> str:
    """Return a value's repr in at most 60 characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SHORT = Repr()
_SHORT.maxstring = 60
