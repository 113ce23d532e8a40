"""Flags: one for each setting of a configuration class, and one for each choice of a type."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from vidur.config.base import Config, PolyConfig, Setting, settings_of
from vidur.config.simulation import SimulationConfig
from vidur.errors import InputError


@dataclass(frozen=True)
class Flag:
    """A flag. owner: the class of the setting. family: the configurations among which it chooses a type, if it does."""

    name: str
    owner: type[Config]
    item: Setting
    family: type[PolyConfig] | None = None

    @property
    def default(self) -> object:
        return self.item.default.type_name if self.family else self.item.default


@cache
def all_flags() -> dict[str, Flag]:
    """Return every flag by name (without dashes), in the order of the classes."""
    flags: dict[str, Flag] = {}
    for flag in _flags_of(SimulationConfig):
        flags.setdefault(flag.name, flag)  # Several request generators have an interval generator.
    return flags


def _flags_of(cls: type[Config]) -> Iterator[Flag]:
    for item in settings_of(cls):
        if item.is_part and issubclass(item.type, PolyConfig):
            yield Flag(item.type.type_flag, cls, item, item.type)
            for member in item.type.family.values():
                yield from _flags_of(member)
        elif item.is_part:
            yield from _flags_of(item.type)
        else:
            yield Flag(cls.flag(item.name).lstrip("-"), cls, item)


def unknown_flag(name: str) -> InputError:
    """Make the error for an unknown flag (with its dashes), suggesting flags with a similar name or ending."""
    wanted = name.lstrip("-").replace("-", "_").lower()
    negated = wanted.startswith("no_")
    wanted = wanted.removeprefix("no_")
    flags = {flag.name: flag.item.name for flag in all_flags().values() if not negated or flag.item.type is bool}
    if not negated:
        flags |= {"config": "config", "help": "help"}
    near = [full for full in flags if len(wanted) > 2 and (full.endswith(f"_{wanted}") or f"_{wanted}_" in full)]
    near += difflib.get_close_matches(wanted, flags, n=3, cutoff=0.75)
    ends = set(difflib.get_close_matches(wanted, set(flags.values()), n=2, cutoff=0.75))
    near += [full for full, end in flags.items() if end in ends]
    nearest = list(dict.fromkeys(near))[:4]
    prefix = "--no-" if negated else "--"
    if not nearest and negated and wanted in all_flags():
        return InputError(f"unknown flag {name}: --{wanted} takes a value and has no --no- form")
    hint = f"did you mean {' or '.join(prefix + full for full in nearest)}?" if nearest else "see --help for all flags"
    return InputError(f"unknown flag {name}: {hint}")
