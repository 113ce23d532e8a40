"""Change settings of a configuration by the names of their flags."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vidur.config.base import Config, PolyConfig, settings_of
from vidur.config.document import flatten, value_of_flag
from vidur.config.flag import Flag, all_flags, unknown_flag
from vidur.config.given import Given, build, chosen_type
from vidur.config.simulation import SimulationConfig
from vidur.errors import InputError

_CANDIDATES_SHOWN = 8


def replaced(config: SimulationConfig, changes: Mapping[str, Any]) -> SimulationConfig:
    """Return the configuration with other values for some flags; see `SimulationConfig.replace`."""
    types, others = {}, {}
    for name, value in changes.items():
        flag = _type_flag(name)
        if flag is None:
            others[name] = value
        else:
            types[flag.name] = Given(value_of_flag(flag, value, name), by_flag=True)
    given = {**flatten(config.to_dict(), "configuration"), **types}
    known = set(_known_flags(SimulationConfig, given))
    for name, value in others.items():
        flag = _setting_flag(name, known)
        given[flag.name] = Given(value_of_flag(flag, value, name), by_flag=True)
    return build(given)


def _known_flags(cls: type[Config], given: Mapping[str, Given]) -> Iterator[str]:
    """Yield the flags of all settings of a configuration with the types in `given`."""
    for item in settings_of(cls):
        if not item.is_part:
            yield cls.flag(item.name).lstrip("-")
        elif issubclass(item.type, PolyConfig):
            yield from _known_flags(chosen_type(item.type, item.default, given), given)
        else:
            yield from _known_flags(item.type, given)


def _type_flag(name: str) -> Flag | None:
    """Return the flag that chooses a type, by its name or by its part's name, as `global_scheduler_config`."""
    flag = all_flags().get(name) or all_flags().get(f"{name}_type")
    return flag if flag is not None and flag.family is not None else None


def _setting_flag(name: str, known: Collection[str]) -> Flag:
    """Return the flag of that name, else of the only setting of that name, else the only flag that ends with it.

    Only settings of chosen types count.
    """
    flags = all_flags()
    ends = [full for full in flags if full == name or full.endswith(f"_{name}")]
    chosen = [full for full in ends if full in known]
    same = [full for full in chosen if flags[full].item.name == name]
    for matches in ([name] if name in chosen else [], same, chosen):
        if len(matches) == 1:
            return flags[matches[0]]
    if not ends:
        raise unknown_flag(name)
    shown = " or ".join((chosen or ends)[:_CANDIDATES_SHOWN])
    if chosen:
        raise InputError(f"{name} matches several settings: give more of its name, {shown}")
    raise InputError(f"{name} belongs to a type that the configuration does not choose: {shown}")
