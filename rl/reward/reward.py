"""Compute the rewards of decisions: the weighted terms are summed, scaled, normalised and clipped."""

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
    """The rewards of T decisions at each stage, float64[T].

    raw: the sum of the weighted terms; scaled: raw divided by the scale and normalised; clipped: what the learner
    gets. terms: each weighted term. share_clipped_low, share_clipped_high: the share of decisions beyond each bound.
    """

    raw: Floats
    scaled: Floats
    clipped: Floats
    terms: dict[str, Floats]
    share_clipped_low: float
    share_clipped_high: float


class RunningStatistics:
    """The mean and standard deviation of all values so far (Chan et al., 1983)."""

    def __init__(self) -> None:
        self.count = self.mean = self._squares = 0.0

    @property
    def std(self) -> float:
        """The standard deviation; 1 until two values differ."""
        spread = float(np.sqrt(self._squares / self.count)) if self.count else 0.0
        return spread if spread > _LEAST_SPREAD else 1.0

    def add(self, values: Floats) -> None:
        if not len(values):
            return
        count, mean = float(len(values)), float(values.mean())
        total = self.count + count
        delta = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def state(self) -> Floats:
        return np.array([self.count, self.mean, self._squares])

    def restore(self, state: NDArray[Any]) -> None:
        self.count, self.mean, self._squares = (float(value) for value in state)


class Reward:
    """Evaluate the reward of `config` on windows; its normalisation remembers the rewards of past windows."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self._statistics = RunningStatistics()

    def terms(self, window: Window, progress: float = 0.0) -> dict[str, Floats]:
        """Return each term times its weight, float64[T]. progress: of the training, 0 to 1."""
        return {part.name: part.weight.at(progress) * part.term.values(window) for part in self.config.terms}

    def evaluate(self, window: Window, progress: float, learn: bool = True) -> RewardResult:
        """Return the rewards of a window; with `learn`, first add them to the running statistics."""
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
        """Return the running statistics as arrays."""
        return {"statistics": self._statistics.state()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `state`, bit for bit."""
        self._statistics.restore(state["statistics"])


def _bound(schedule: Schedule | None, progress: float, none: float) -> float:
    return none if schedule is None else schedule.at(progress)
