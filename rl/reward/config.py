"""A reward as configuration: terms with weights, a scale, normalisation, clips; schedules over the training."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl.reward.terms import TERMS, Term
from vidur.config import PPOGlobalSchedulerConfig
from vidur.config.base import conform_one, settings_of
from vidur.config.document import parse_yaml, read_value
from vidur.data_files import data_path
from vidur.errors import InputError, unknown_name

NORMALISATIONS = ("none", "std", "mean_std")


@dataclass(frozen=True)
class Schedule:
    """A number that changes with the progress of the training, linearly between points (progress 0..1, value)."""

    points: tuple[tuple[float, float], ...]

    def at(self, progress: float) -> float:
        """The value at a progress; before the first point and after the last it is theirs."""
        moments, values = zip(*self.points, strict=True)
        return float(np.interp(progress, moments, values))

    @classmethod
    def read(cls, value: Any, where: str) -> Schedule:
        """A number, or a list of [progress, value]."""
        if not isinstance(value, list):
            return cls(((0.0, _number(value, where)),))
        points: list[tuple[float, float]] = []
        for place, pair in enumerate(value):
            if not isinstance(pair, list) or len(pair) != 2:
                raise InputError(f"{where}[{place}]: expected [progress, value], not {pair!r}")
            progress = _number(pair[0], f"{where}[{place}]: progress")
            if not 0 <= progress <= 1 or (points and progress <= points[-1][0]):
                raise InputError(f"{where}[{place}]: progress goes up from 0 to 1, {progress:g} does not fit")
            points.append((progress, _number(pair[1], f"{where}[{place}]: value")))
        if not points:
            raise InputError(f"{where}: a schedule has at least one [progress, value]")
        return cls(tuple(points))

    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        values = [value for _, value in self.points]
        return min(values), max(values)


@dataclass(frozen=True)
class WeightedTerm:
    """A term under a name, which is the term's own unless it occurs twice."""

    name: str
    term: Term
    weight: Schedule


@dataclass(frozen=True)
class RewardConfig:
    """reward = clip(normalise(sum of weight * term / scale)).

    normalisation: `std` divides by the running standard deviation of all rewards so far, `mean_std` also takes off
    their running mean. clip_low, clip_high: bounds, or None. Weights and bounds follow schedules.
    """

    name: str
    terms: tuple[WeightedTerm, ...]
    scale: float = 1.0
    normalisation: str = "none"
    clip_low: Schedule | None = None
    clip_high: Schedule | None = None

    @classmethod
    def load(cls, name_or_path: str) -> RewardConfig:
        """The reward of a name in data/rewards, or of a YAML file.

        Raises InputError for one that is not there, and for whatever in it is unknown, missing or out of range.
        """
        is_path = "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
        path = Path(name_or_path) if is_path else data_path("rewards") / f"{name_or_path}.yaml"
        flag = PPOGlobalSchedulerConfig.flag("reward")
        if not is_path and not path.is_file():
            raise unknown_name(f"{flag} (a name in data/rewards, or a YAML file)", name_or_path, shipped_rewards())
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{flag} {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{flag} {path}: not a text file in UTF-8") from None
        return cls.of(parse_yaml(text, path), path.stem, str(path))

    @classmethod
    def of(cls, document: Any, name: str, where: str = "reward") -> RewardConfig:
        """The reward that a document describes. `where` stands before the text of an InputError."""
        given = _mapping(document, where, ("terms", "scale", "normalisation", "clip"))
        listed = given.get("terms")
        if not isinstance(listed, list) or not listed:
            raise InputError(f"{where}: terms: expected a list of {{term: NAME, weight: NUMBER, ...}}")
        terms = tuple(_term(item, f"{where}: terms[{place}]") for place, item in enumerate(listed))
        names = [term.name for term in terms]
        for place, its in enumerate(names):
            if its in names[:place]:
                raise InputError(f"{where}: terms[{place}]: there is a {its} already: give this one a name of its own")
        scale = _number(given.get("scale", 1.0), f"{where}: scale")
        if scale <= 0:
            raise InputError(f"{where}: scale must be above 0, not {scale:g}")
        normalisation = given.get("normalisation", "none")
        if normalisation not in NORMALISATIONS:
            raise unknown_name(f"{where}: normalisation", str(normalisation), NORMALISATIONS)
        low, high = _clip(given.get("clip"), f"{where}: clip")
        return cls(name, terms, scale, normalisation, low, high)


def shipped_rewards() -> list[str]:
    """The names in data/rewards."""
    return sorted(file.stem for file in data_path("rewards").glob("*.yaml"))


def _term(item: Any, where: str) -> WeightedTerm:
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: expected {{term: NAME, weight: NUMBER, ...}}, not {item!r}")
    if "term" not in item:
        raise InputError(f"{where}: term is missing: give one of {', '.join(TERMS.names())}")
    try:
        kind = TERMS.get(str(item["term"]))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    settings = {part.name: part for part in settings_of(kind)}
    given = _mapping(item, where, ("term", "name", "weight", *settings))
    name = given.pop("name", given.pop("term"))
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: name: expected text, not {name!r}")
    given.pop("term", None)
    weight = Schedule.read(given.pop("weight", 1.0), f"{where}: weight")
    if weight.ends()[0] < 0:
        raise InputError(f"{where}: weight must be at least 0: penalties are negative already")
    for key, part in settings.items():
        if part.default is MISSING and key not in given:
            raise InputError(f"{where}: {key} is missing: {part.help}")
    try:
        term = kind(**{key: read_value(settings[key], value, f"{key}") for key, value in given.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return WeightedTerm(name, term, weight)


def _clip(value: Any, where: str) -> tuple[Schedule | None, Schedule | None]:
    if value is None:
        return None, None
    given = _mapping(value, where, ("low", "high"))
    low, high = (
        None if given.get(key) is None else Schedule.read(given[key], f"{where}.{key}") for key in ("low", "high")
    )
    if low is not None and high is not None:
        moments = sorted({progress for progress, _ in (*low.points, *high.points)})
        for progress in moments:
            if low.at(progress) >= high.at(progress):
                raise InputError(
                    f"{where}: low must be below high, and at progress {progress:g} they are "
                    f"{low.at(progress):g} and {high.at(progress):g}"
                )
    return low, high


def _mapping(value: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected keys and values, not {value!r}")
    for key in value:
        if key not in keys:
            raise unknown_name(f"key in {where}:", str(key), keys)
    return dict(value)


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):
        with suppress(ValueError):  # YAML takes 1e-3 for text.
            value = float(value)
    return float(conform_one(float, value, where, "a number"))
