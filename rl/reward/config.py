"""Configure a reward: weighted terms, a scale, normalisation and clipping, with schedules over the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

import numpy as np

from rl.reward.terms import TERMS, Term
from vidur.config import PPOGlobalSchedulerConfig
from vidur.config.base import Config, Setting, setting, settings_of
from vidur.config.document import check_keys, read, read_value
from vidur.data_files import data_path
from vidur.documents import named_document, short
from vidur.errors import InputError

NORMALISATIONS = ("none", "std", "mean_std")


@dataclass(frozen=True)
class Schedule:
    """A number that changes with the progress of the training, linearly between points (progress 0..1, value)."""

    points: tuple[tuple[float, float], ...]

    def at(self, progress: float) -> float:
        """Return the value at a progress; outside the points, that of the nearest one."""
        moments, values = zip(*self.points, strict=True)
        return float(np.interp(progress, moments, values))

    @classmethod
    def of_document(cls, value: Any, where: str) -> Schedule:
        """Read a number, or a list of [progress, value]."""
        if not isinstance(value, list):
            return cls(((0.0, _number(value, where)),))
        points: list[tuple[float, float]] = []
        for index, pair in enumerate(value):
            if not isinstance(pair, list) or len(pair) != 2:
                raise InputError(f"{where}[{index}]: expected [progress, value], not {short(pair)}")
            progress = _number(pair[0], f"{where}[{index}]: progress")
            if not 0 <= progress <= 1 or (points and progress <= points[-1][0]):
                raise InputError(f"{where}[{index}]: progress must increase from 0 to 1, but is {progress:g}")
            points.append((progress, _number(pair[1], f"{where}[{index}]: value")))
        if not points:
            raise InputError(f"{where}: a schedule needs at least one [progress, value]")
        return cls(tuple(points))

    def ends(self) -> tuple[float, float]:
        """Return the least and the greatest value."""
        values = [value for _, value in self.points]
        return min(values), max(values)


@dataclass(frozen=True)
class WeightedTerm:
    """A term with its weight. A term that occurs twice needs a name of its own."""

    name: str
    term: Term
    weight: Schedule

    @classmethod
    def of_document(cls, value: Any, where: str) -> WeightedTerm:
        """Read `{term: NAME, name: TEXT, weight: NUMBER, ...}`; the other keys are the term's settings."""
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected {{term: NAME, weight: NUMBER, ...}}, not {short(value)}")
        if "term" not in value:
            raise InputError(f"{where}: term is missing: give one of {', '.join(TERMS.names())}")
        try:
            kind = TERMS.get(str(value["term"]))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        ours = ("term", "name", "weight")
        check_keys(value, where, [*ours, *(item.name for item in settings_of(kind))])
        name = value.get("name", kind.name)
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: name: expected text, not {short(name)}")
        weight = Schedule.of_document(value.get("weight", 1.0), f"{where}: weight")
        if weight.ends()[0] < 0:
            raise InputError(f"{where}: weight must be at least 0: the terms themselves are negative for penalties")
        return cls(name, read(kind, {key: item for key, item in value.items() if key not in ours}, where), weight)


@dataclass(frozen=True)
class Clip(Config):
    """The bounds of the rewards; None is unbounded."""

    low: Schedule | None = setting(None, help="the lower bound")
    high: Schedule | None = setting(None, help="the upper bound")

    def check(self) -> None:
        if self.low is None or self.high is None:
            return
        for progress in sorted({progress for progress, _ in (*self.low.points, *self.high.points)}):
            low, high = self.low.at(progress), self.high.at(progress)
            if low >= high:
                raise InputError(
                    f"{self.flag('low')} must be below high, but at progress {progress:g} they are {low:g} and {high:g}"
                )


@dataclass(frozen=True)
class RewardConfig(Config):
    """reward = clip(normalise(sum of weight * term / scale)), where weights and bounds follow schedules.

    normalisation: `std` divides by the running standard deviation of all rewards so far; `mean_std` first subtracts
    their running mean.
    """

    name: str = setting(MISSING, help="name of the reward")
    terms: tuple[WeightedTerm, ...] = setting(MISSING, help="a list of {term: NAME, weight: NUMBER, ...}")
    scale: float = setting(1.0, help="divides the sum of the terms", above=0)
    normalisation: str = setting("none", help="normalisation by the rewards so far", choices=NORMALISATIONS)
    clip: Clip | None = setting(None, help="bounds of the reward that the learner gets")

    def check(self) -> None:
        if not self.terms:
            raise InputError(f"{self.flag('terms')}: give at least one {{term: NAME, weight: NUMBER, ...}}")
        names = [term.name for term in self.terms]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise InputError(
                    f"{self.flag('terms')}[{index}]: there is already a term {name}: give this one another name"
                )

    @property
    def clip_low(self) -> Schedule | None:
        return None if self.clip is None else self.clip.low

    @property
    def clip_high(self) -> Schedule | None:
        return None if self.clip is None else self.clip.high

    @classmethod
    def load(cls, name_or_path: str) -> RewardConfig:
        """Read the reward of a name in data/rewards, or of a YAML file.

        Raises InputError if it does not exist, or if a value in it is unknown, missing or out of range.
        """
        path, document = named_document(PPOGlobalSchedulerConfig.flag("reward"), "rewards", name_or_path)
        return cls.of(document, path.stem, str(path))

    @classmethod
    def of(cls, document: Any, name: str, where: str = "reward") -> RewardConfig:
        """Read the reward that a document describes. `where` begins the message of an InputError."""
        return read(cls, document, where, name=name)


def shipped_rewards() -> list[str]:
    """Return the names in data/rewards."""
    return sorted(file.stem for file in data_path("rewards").glob("*.yaml"))


def _number(value: Any, where: str) -> float:
    return float(read_value(_NUMBER, value, where))


_NUMBER = Setting("", float, many=False, optional=False, default=MISSING, metadata={})
