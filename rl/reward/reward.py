"""The reward of each decision: terms added up, scaled, normalised, clipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl.reward.config import RewardConfig, Schedule
from rl.reward.window import Window
from vidur.observation import Floats

__all__ = ["Reward", "RewardConfig", "RewardResult", "Window"]

_LEAST_SPREAD = 1e-8


@dataclass(frozen=True)
class RewardResult:
    """The rewards of T decisions, stage by stage, float64[T] each.

    raw: the sum of the weighted terms; scaled: that divided by the scale and normalised; clipped: what the learner
    gets. terms: each weighted term. share_clipped_low, share_clipped_high: of the decisions, at each bound.
    """

    raw: Floats
    scaled: Floats
    clipped: Floats
    terms: dict[str, Floats]
    share_clipped_low: float
    share_clipped_high: float


class RunningStatistics:
    """Mean and standard deviation of all values so far (Chan et al., 1983)."""

    def __init__(self) -> None:
        self.count = self.mean = self._squares = 0.0

    @property
    def std(self) -> float:
        """1 before there are two values that differ."""
        spread = float(np.sqrt(self._squares / self.count)) if self.count else 0.0
        return spread if spread > _LEAST_SPREAD else 1.0

    def add(self, values: Floats) -> None:
        if not len(values):
            return
        count, mean = float(len(values)), float(values.mean())
        total = self.count + count
        apart = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    def state(self) -> Floats:
        return np.array([self.count, self.mean, self._squares])

    def restore(self, state: NDArray[Any]) -> None:
        self.count, self.mean, self._squares = (float(value) for value in state)


class Reward:
    """What `config` makes of windows. Normalisation remembers the rewards of all windows it was shown."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self._statistics = RunningStatistics()

    def terms(self, window: Window, progress: float = 0.0) -> dict[str, Floats]:
        """Each term, times its weight at this progress (0 to 1) of the training: float64[T]."""
        return {part.name: part.weight.at(progress) * part.term.values(window) for part in self.config.terms}

    def evaluate(self, window: Window, progress: float, learn: bool = True) -> RewardResult:
        """The rewards of a window. With `learn` its raw rewards first go into the running statistics."""
        terms = self.terms(window, progress)
        raw: Floats = np.sum(list(terms.values()), 0)
        scaled = raw / self.config.scale
        if self.config.normalisation != "none":
            if learn:
                self._statistics.add(scaled)
            centre = self._statistics.mean if self.config.normalisation == "mean_std" else 0.0
            scaled = (scaled - centre) / self._statistics.std
        low, high = _bound(self.config.clip_low, progress, -np.inf), _bound(self.config.clip_high, progress, np.inf)
        return RewardResult(
            raw=raw,
            scaled=scaled,
            clipped=np.clip(scaled, low, high),
            terms=terms,
            share_clipped_low=float(np.mean(scaled < low)) if len(raw) else 0.0,
            share_clipped_high=float(np.mean(scaled > high)) if len(raw) else 0.0,
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """The running statistics, as arrays."""
        return {"statistics": self._statistics.state()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state`, bit for bit."""
        self._statistics.restore(state["statistics"])


def _bound(schedule: Schedule | None, progress: float, none: float) -> float:
    return none if schedule is None else schedule.at(progress)
