"""Parse the names of the schedulers that a sweep compares: `lor`, `ppo:beta=40`, `router.py:MyRouter`."""

from __future__ import annotations

from collections.abc import Sequence

from vidur.config import CustomGlobalSchedulerConfig, LookaheadGlobalSchedulerConfig, PPOGlobalSchedulerConfig
from vidur.config.base import settings_of
from vidur.config.command_line import read_text
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.errors import InputError, unknown_name

ALL, CACHE = "all", "cache"
# What cache-aware routers are compared with, besides one another.
_WITHOUT_CACHES = ("round_robin", "least_tokens", "session_hash", "consistent_hash", "ppo")
# Separates the elements of a list, since commas separate settings and schedulers.
_LIST = "+"


def every_scheduler() -> list[str]:
    """Return the built-in schedulers except lookahead, which is slow, and those that know prefix caches."""
    excluded = (CustomGlobalSchedulerConfig.type_name, LookaheadGlobalSchedulerConfig.type_name, "consistent_hash")
    names = BaseGlobalSchedulerConfig.type_names()
    return [name for name in names if name not in excluded and not _is_cache_aware(name)]


def cache_schedulers() -> list[str]:
    """Return the schedulers to compare where prefixes are cached."""
    return [*_WITHOUT_CACHES, *(name for name in BaseGlobalSchedulerConfig.type_names() if _is_cache_aware(name))]


def _is_cache_aware(name: str) -> bool:
    return BaseGlobalSchedulerConfig.from_type(name).cache_aware


def parse_schedulers(text: str) -> dict[str, BaseGlobalSchedulerConfig]:
    """Return configurations by name, in the given order.

    Names are separated by commas; `all` means every_scheduler, `cache` cache_schedulers. Settings follow a colon,
    `ppo:beta=40,checkpoint=FILE`; list elements are joined by plus signs,
    `size_split:thresholds=900+3000`. `FILE.py:Class` is a user's scheduler.
    Raises InputError with the nearest valid names.
    """
    configs: dict[str, BaseGlobalSchedulerConfig] = {}
    for word in _split(text):
        groups = {ALL: every_scheduler, CACHE: cache_schedulers}
        for name in groups[word]() if word in groups else [word]:
            configs.setdefault(name, parse_scheduler(name))
    if not configs:
        raise InputError(
            f"--schedulers names nothing: give one name or more, with commas between them, {ALL} or {CACHE}"
        )
    return configs


def parse_scheduler(text: str) -> BaseGlobalSchedulerConfig:
    """Parse one name with its settings, if any."""
    name, settings = _take_apart(text)
    if ":" not in name and name not in BaseGlobalSchedulerConfig.type_names():
        raise unknown_name("scheduler", name, [*BaseGlobalSchedulerConfig.type_names(), ALL, CACHE])
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
    """Split a list of schedulers; a word `key=value` belongs to the scheduler before it."""
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
    """Split `a.py:Class:key=value` at the last colon before the equals sign."""
    colon = word.partition("=")[0].rfind(":")
    return (word[:colon], ":", word[colon + 1 :]) if colon >= 0 else ("", "", word)
