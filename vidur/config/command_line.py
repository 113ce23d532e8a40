"""Parse the command line: flags override the file of `--config`; print `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import vidur
from vidur.config.base import Config, PolyConfig, Setting, conform, settings_of
from vidur.config.document import make_record, read_document
from vidur.config.flag import Flag, all_flags, unknown_flag
from vidur.config.given import Given, build
from vidur.config.simulation import SimulationConfig
from vidur.errors import InputError, unknown_name

METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL"}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class FlagParser(argparse.ArgumentParser):
    """A parser that raises InputError in place of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


def parse_command_line(argv: Sequence[str] | None = None) -> SimulationConfig:
    """Return the configuration of `argv` (default: sys.argv). Raises InputError, or SystemExit(0) after --help."""
    values, extras = _parser().parse_known_args(argv)
    if extras:
        raise _unexpected(extras)
    given = {
        name: Given(read_flag(all_flags()[name], value), by_flag=True)
        for name, value in vars(values).items()
        if name != "config"
    }
    file = getattr(values, "config", None)
    config = build({**(read_document(Path(file), given) if file is not None else {}), **given})
    _warn_of_no_effect(config, [all_flags()[name] for name in given])
    return config


def _warn_of_no_effect(config: Config, given: Sequence[Flag]) -> None:
    """Warn on stderr of flags that belong to a type that is not chosen."""
    chosen = _parts_of(config)
    settings = {
        f"--{item.type.type_flag}" if item.is_part and issubclass(item.type, PolyConfig) else cls.flag(item.name)
        for cls in chosen
        for item in settings_of(cls)
    }
    for flag in given:
        if not issubclass(flag.owner, PolyConfig) or flag.owner in chosen or f"--{flag.name}" in settings:
            continue
        families = [part for part in chosen if issubclass(part, PolyConfig) and part.family is flag.owner.family]
        because = f" with --{families[0].type_flag} {families[0].type_name}" if families else ""
        print(f"vidur: warning: --{flag.name} has no effect{because}", file=sys.stderr)


def _parts_of(config: Config) -> list[type[Any]]:
    """Return the classes of a configuration and of its parts, recursively."""
    parts = [getattr(config, item.name) for item in settings_of(type(config)) if item.is_part]
    return [type(config), *(cls for part in parts for cls in _parts_of(part))]


def flags_of(config: Config) -> list[str]:
    """Return the command line of `config`: flags of the settings that differ from their defaults.

    A setting of None is left out: no flag can express it.
    """
    return [word for words in _flags_of(config) for word in words]


def _flags_of(config: Config) -> Iterator[list[str]]:
    for item in settings_of(type(config)):
        value = getattr(config, item.name)
        if item.is_part:
            if issubclass(item.type, PolyConfig) and type(value) is not item.default:
                yield [f"--{item.type.type_flag}", value.get_type()]
            yield from _flags_of(value)
        elif value is not None and value != item.default:
            flag = config.flag(item.name)
            if item.is_records:
                yield [flag, *map(_record_text, value)]
            elif item.type is bool and not item.many:
                yield [flag if value else f"--no-{flag.removeprefix('--')}"]
            else:
                yield [flag, *map(_word, value if item.many else (value,))]


def _record_text(record: Config) -> str:
    """`name=fast,num_replicas=2`, the inverse of `_read_record`."""
    values = {item.name: getattr(record, item.name) for item in settings_of(type(record))}
    defaults = {item.name: item.default for item in settings_of(type(record))}
    given = {name: value for name, value in values.items() if value is not None and value != defaults[name]}
    return ",".join(f"{name}={_word(value)}" for name, value in (given or values).items() if value is not None)


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _unexpected(extras: list[str]) -> InputError:
    word = extras[0]
    if word.startswith("-") and word != "-":
        return unknown_flag(word.partition("=")[0])
    return InputError(
        f"unexpected argument {word!r}: flags begin with --, and true-or-false flags take no value (--x, --no-x)"
    )


def read_flag(flag: Flag, value: Any) -> Any:
    """Convert what argparse collected (a string, a list of strings, or a bool) to the setting's type."""
    where = f"--{flag.name}"
    if flag.family is not None:
        flag.family.from_type(value, where)
        return value
    if isinstance(value, list):
        if flag.item.is_records:
            return tuple(_read_record(flag.item.type, text, where) for text in value)
        return tuple(read_text(flag.item, text, where) for text in value)
    return read_text(flag.item, value, where) if isinstance(value, str) else value


def _read_record(cls: type[Config], text: str, where: str) -> Config:
    """Parse `name=fast,num_replicas=2` into a configuration."""
    items = {item.name: item for item in settings_of(cls)}
    values: dict[str, Any] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"{where}: expected key=value,key=value, not {text!r}")
        if key not in items:
            raise unknown_name(f"{where} key", key, items)
        if key in values:
            raise InputError(f"{where}: {key} is given twice in {text!r}")
        values[key] = read_text(items[key], value, f"{where}: {key}")
    return make_record(cls, values, where)


def read_text(item: Setting, text: str, where: str) -> Any:
    """Convert a word to the setting's type, or to the type of its elements if it is a list."""
    try:
        value = TRUTH[text.lower()] if item.type is bool else _whole(text) if item.type is int else item.type(text)
    except (ValueError, KeyError, OverflowError):
        raise InputError(f"{where}: expected {item.type_name}, not {text!r}") from None
    return value if item.many else conform(item, value, where)


def _whole(text: str) -> int:
    """Parse `1000` or `1e3`. Raises ValueError or OverflowError if the number is not whole."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if int(value) != value:
            raise
        return int(value)


def _parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog="python -m vidur.main",
        usage="python -m vidur.main [--config FILE] [--FLAG VALUE ...]",
        description="Simulate a cluster that serves a large language model.",
        epilog="Flags of types that are not chosen have no effect.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"vidur {vidur.__version__}")
    parser.add_argument("--config", metavar="FILE", help="YAML file, or config.json of a run; flags override it")
    groups: dict[str, Any] = {}
    for flag in all_flags().values():
        title, description = _group_of(flag)
        if title not in groups:
            groups[title] = parser.add_argument_group(title, description)
        add_flag(groups[title], flag)
    return parser


def _group_of(flag: Flag) -> tuple[str, str]:
    """Return title and description of the flag's section of --help."""
    if flag.family is not None:
        return _family_title(flag.family), flag.item.help
    if issubclass(flag.owner, PolyConfig):
        return f"{_family_title(flag.owner)}: {flag.owner.type_name}", flag.owner.description
    return flag.owner.help_title, flag.owner.help_description


def _family_title(family: type[PolyConfig]) -> str:
    return family.type_flag.removesuffix("_config_type").replace("_", " ")


def add_flag(group: Any, flag: Flag) -> None:
    """Add the flag to a group of an argparse parser."""
    options: dict[str, Any] = {"dest": flag.name, "help": _help(flag)}
    if flag.family is None and flag.item.type is bool and not flag.item.many:
        group.add_argument(f"--{flag.name}", action=argparse.BooleanOptionalAction, **options)
        return
    if flag.family is not None:
        options["metavar"] = "TYPE"
    elif flag.item.is_records:
        options["metavar"] = "KEY=VALUE,..."
    else:
        options["metavar"] = METAVARS[flag.item.type]
    if flag.item.many:
        options["nargs"] = "+"
    group.add_argument(f"--{flag.name}", **options)


def _help(flag: Flag) -> str:
    text = flag.item.help
    if flag.family is not None:
        text = ", ".join(flag.family.family)
    default = flag.default
    if default in (None, (), ""):
        shown = "none"
    elif isinstance(default, tuple):
        shown = " ".join(map(str, default))
    else:
        shown = str(default)
    return f"{text} (default: {shown})".replace("%", "%%")
