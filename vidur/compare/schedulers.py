"""The schedulers that a sweep compares, by name: `lor`, `ppo:beta=40`, `router.py:MyRouter`."""

from __future__ import annotations

from collections.abc import Sequence

from vidur.config import CustomGlobalSchedulerConfig, LookaheadGlobalSchedulerConfig, PPOGlobalSchedulerConfig
from vidur.config.base import settings_of
from vidur.config.command_line import read_text
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.errors import InputError, unknown_name

ALL = "all"
# Separates the elements of a list, since commas separate settings and schedulers.
_LIST = "+"


def every_scheduler() -> list[str]:
    """Those of the simulator that can be run as they are; lookahead, which simulates every choice, is apart."""
    apart = (CustomGlobalSchedulerConfig.type_name, LookaheadGlobalSchedulerConfig.type_name)
    return [name for name in BaseGlobalSchedulerConfig.type_names() if name not in apart]


def parse_schedulers(text: str) -> dict[str, BaseGlobalSchedulerConfig]:
    """Configurations by the names that were given, in their order.

    Names are separated by commas; `all` is every_scheduler. Settings follow a colon, `ppo:beta=40,checkpoint=FILE`, and
    lists have plus signs, `size_split:thresholds=900+3000`. `FILE.py:Class` is a scheduler of the user's. Raises
    InputError with the nearest valid names.
    """
    found: dict[str, BaseGlobalSchedulerConfig] = {}
    for name in _split(text):
        for one in every_scheduler() if name == ALL else [name]:
            found.setdefault(one, parse_scheduler(one))
    if not found:
        raise InputError(f"--schedulers names nothing: give one name or more, with commas between them, or {ALL}")
    return found


def parse_scheduler(text: str) -> BaseGlobalSchedulerConfig:
    """Of one name, with its settings if it has any."""
    name, settings = _take_apart(text)
    if ":" not in name and name not in BaseGlobalSchedulerConfig.type_names():
        raise unknown_name("scheduler", name, [*BaseGlobalSchedulerConfig.type_names(), ALL])
    family = BaseGlobalSchedulerConfig.from_type(name)
    items = {item.name: item for item in settings_of(family)}
    values = {"scheduler": name} if ":" in name else {}
    for pair in settings:
        key, _, value = pair.partition("=")
        where = f"--schedulers {text}: {key}"
        if key not in items:
            raise unknown_name(f"setting of scheduler {name}:", key, items) if items else InputError(
                f"--schedulers {text}: {name} has no settings"
            )  # fmt: skip
        item = items[key]
        values[key] = (
            tuple(read_text(item, word, where) for word in value.split(_LIST))  # type: ignore[assignment]
            if item.many
            else read_text(item, value, where)
        )
    try:
        config = family(**values)
    except InputError as error:
        raise InputError(f"--schedulers {text}: {error}") from None
    if isinstance(config, PPOGlobalSchedulerConfig) and config.mode != "evaluate":
        raise InputError(f"--schedulers {text}: a sweep compares policies as they are: mode {config.mode} changes one")
    assert isinstance(config, BaseGlobalSchedulerConfig)
    return config


def _split(text: str) -> list[str]:
    """The schedulers of a list: a word `key=value` goes on with the settings of the one before."""
    names: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        if names and _is_setting(word):
            names[-1] += f",{word}"
        else:
            names.append(word)
    return names


def _is_setting(word: str) -> bool:
    return "=" in word and ":" not in word.partition("=")[0]


def _take_apart(text: str) -> tuple[str, Sequence[str]]:
    first, *others = text.split(",")
    head, colon, setting = first.rpartition(":") if "=" not in first else _at_setting(first)
    if colon and "=" in setting:
        return head, [setting, *others]
    return first, others


def _at_setting(word: str) -> tuple[str, str, str]:
    """`a.py:Class:key=value` at the last colon before the equals sign."""
    before = word.partition("=")[0]
    place = before.rfind(":")
    return (word[:place], ":", word[place + 1 :]) if place >= 0 else ("", "", word)
