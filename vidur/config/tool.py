"""Parse the command lines of the other tools, whose flags come from one or more configuration classes."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vidur.config.base import Config, settings_of
from vidur.config.command_line import FlagParser, add_flag, read_flag
from vidur.config.flag import Flag
from vidur.errors import InputError


def parse_tool(
    prog: str,
    description: str,
    classes: Sequence[type[Config]],
    argv: Sequence[str] | None = None,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Return one configuration of each class from `argv` (default: sys.argv).

    A flag is `--field`, without the class's prefix, with dashes or underscores; no two classes may share a field.
    Fields of `leave_out` keep their defaults. defaults: values by field if there is no flag. Raises InputError, or
    SystemExit(0) after --help.
    """
    flags: dict[str, Flag] = {}
    parser = FlagParser(prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for cls in classes:
        group = parser.add_argument_group(cls.help_title or cls.__name__, cls.help_description)
        for item in settings_of(cls):
            if item.name in leave_out:
                continue
            assert item.name not in flags and not item.is_part
            flags[item.name] = Flag(item.name, cls, item)
            add_flag(group, flags[item.name])
    words = list(sys.argv[1:] if argv is None else argv)
    values, extras = parser.parse_known_args([_underscored(word, flags) for word in words])
    if extras:
        near = difflib.get_close_matches(extras[0].lstrip("-").partition("=")[0], flags, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join('--' + name for name in near)}?" if near else "see --help"
        raise InputError(f"unknown argument {extras[0]}: {hint}")
    given = dict(defaults or {}) | {name: read_flag(flags[name], value) for name, value in vars(values).items()}
    return [
        cls.named("--{}".format, **{name: value for name, value in given.items() if flags[name].owner is cls})
        for cls in classes
    ]


def leading_words(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Split `argv` (default: sys.argv) before its first flag."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:first], words[first:]


def _underscored(word: str, flags: Collection[str]) -> str:
    """Return `--ray_address` for --ray-address, and other words unchanged."""
    name, equals, value = word.partition("=")
    plain = name[2:].replace("-", "_") if name.startswith("--") else ""
    if plain in flags:
        return f"--{plain}{equals}{value}"
    negated = plain.removeprefix("no_")
    return f"--no-{negated}" if negated != plain and negated in flags else word
