"""The terms of a reward: each is a function of a Window, and the greater the better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rl.reward.cost import cost_weights
from rl.reward.window import Window
from rl.simulate.rollout import OBJECTIVES
from vidur.config.base import Config, setting
from vidur.engine.foresight import COST_E2E, COST_TPOT_MISSED, COST_TTFT, COST_TTFT_MISSED, COST_TTFT_SQUARED
from vidur.errors import InputError
from vidur.observation import Floats
from vidur.registry import Registry

FORESEEN, OBSERVED = "foreseen", "observed"
LIFETIME, INTERVAL, COMPLETION = "lifetime", "interval", "completion"
OUTSTANDING, WAITING = "outstanding", "waiting"

_CREDIT = setting(
    FORESEEN, help="foreseen: what the decision causes; observed: what happens until the next decision",
    choices=(FORESEEN, OBSERVED),
)  # fmt: skip


@dataclass(frozen=True)
class Term(Config, ABC):
    """The base of the terms, whose fields are their settings."""

    name: ClassVar[str]

    @classmethod
    def flag(cls, name: str) -> str:
        return f"{cls.name}: {name}"

    @abstractmethod
    def values(self, window: Window) -> Floats:
        """Return the value of each decision, [T]."""


class _Terms(Registry[type[Term]]):
    def add(self, term: type[Term]) -> type[Term]:
        return self.register(term.name)(term)


TERMS = _Terms("reward term")


def _request_seconds(window: Window) -> float:
    """Return the usual E2E of a request, the unit of rl.reward.cost at a beta of 0."""
    return float(1.0 / cost_weights(0.0, window.time_unit)[COST_E2E])


@TERMS.add
@dataclass(frozen=True)
class MarginalCost(Term):
    """The negated growth, by the decision, of sum(E2E) + w * sum(TTFT) + tail_weight * w^2 * sum(TTFT^2) / tail.

    w, the tail and the unit are those of rl.reward.cost. Output lengths are the true ones. The sum over a simulation is
    its negated cost.
    """

    name = "marginal_cost"
    tail_weight: float = setting(1.0, help="weight of squared TTFT; 1 is the objective of rl.reward.cost", minimum=0)

    def values(self, window: Window) -> Floats:
        weights = cost_weights(window.beta, window.time_unit)
        weights[COST_TTFT_SQUARED] *= self.tail_weight
        return -(window.costs @ weights)


@TERMS.add
@dataclass(frozen=True)
class SojournTime(Term):
    """The negated integral of the requests in the system over the interval, in units of 200 decode iterations.

    The sum over a simulation is its negated sum(E2E).
    """

    name = "sojourn_time"

    def values(self, window: Window) -> Floats:
        return -window.requests_in_system() / _request_seconds(window)


@TERMS.add
@dataclass(frozen=True)
class Throughput(Term):
    """The throughput relative to a target.

    Over the lifetime: completed requests / seconds since the start / target. Over the interval: completed requests
    minus target * seconds.
    """

    name = "throughput"
    target: float = setting(help="requests per second", above=0)
    over: str = setting(INTERVAL, help="period that counts", choices=(INTERVAL, LIFETIME))

    def values(self, window: Window) -> Floats:
        ones = np.ones_like(window.completed_at)
        if self.over == INTERVAL:
            return window.sums(window.completed_at, ones)[1] - self.target * np.diff(window.decided_at)
        now = window.decided_at[1:]
        completed = window.lifetime_sums(window.completed_at, ones)
        return np.divide(completed, self.target * now, out=np.zeros(len(window)), where=now > 0)


@TERMS.add
@dataclass(frozen=True)
class LatencyThreshold(Term):
    """A penalty on E2E above a threshold: of each request completed in the interval, or of the lifetime's mean E2E."""

    name = "latency_threshold"
    threshold: float = setting(help="seconds of E2E", minimum=0)
    over: str = setting(COMPLETION, help="requests that count", choices=(COMPLETION, LIFETIME))
    shape: str = setting(
        "linear", help="linear: seconds above the threshold; soft: 1 - exp(-seconds)", choices=("linear", "soft")
    )

    def values(self, window: Window) -> Floats:
        if self.over == COMPLETION:
            return -window.sums(window.completed_at, self._penalty(window.e2e))[1]
        ones = np.ones_like(window.completed_at)
        completed = window.lifetime_sums(window.completed_at, ones)
        total = window.lifetime_sums(window.completed_at, window.e2e)
        return -self._penalty(np.divide(total, completed, out=np.zeros(len(window)), where=completed > 0))

    def _penalty(self, seconds: Floats) -> Floats:
        above: Floats = np.maximum(seconds - self.threshold, 0.0)
        return -np.expm1(-above) if self.shape == "soft" else above


@TERMS.add
@dataclass(frozen=True)
class LoadBalance(Term):
    """The negated imbalance of the replicas' loads, requests / relative speed, by their standard deviation or cv."""

    name = "load_balance"
    measure: str = setting("cv", help="cv: coefficient of variation; std: standard deviation", choices=("cv", "std"))
    load: str = setting(
        OUTSTANDING,
        help="outstanding: all requests after the decision; waiting: requests without a first token at the next one",
        choices=(OUTSTANDING, WAITING),
    )

    def values(self, window: Window) -> Floats:
        if self.load == WAITING:
            requests = window.waiting[1:]
        else:
            requests = window.outstanding.copy()
            requests[np.arange(len(window)), window.actions] += 1.0
        loads = requests / window.speeds
        spread: Floats = loads.std(1)
        if self.measure == "cv":
            mean = loads.mean(1)
            spread = np.divide(spread, mean, out=np.zeros(len(window)), where=mean > 0)
        return -spread


@TERMS.add
@dataclass(frozen=True)
class TTFT(Term):
    """The negated TTFT, in units of 200 decode iterations.

    foreseen: the growth, by the decision, of the sum over all requests; observed: the sum over the requests that got
    their first token in the interval.
    """

    name = "ttft"
    credit: str = _CREDIT

    def values(self, window: Window) -> Floats:
        if self.credit == FORESEEN:
            seconds = window.costs[:, COST_TTFT]
        else:
            seconds = window.sums(window.first_token_at, window.ttft)[1]
        return -seconds / _request_seconds(window)


@TERMS.add
@dataclass(frozen=True)
class SLOViolations(Term):
    """The negated number of requests that miss the TTFT objective plus that of those that miss the TPOT objective.

    foreseen: the misses that the decision causes; observed: those of requests that got their first token, or completed,
    in the interval.
    """

    name = "slo_violations"
    ttft_objective: float = setting(OBJECTIVES[0], help="seconds", above=0)
    tpot_objective: float = setting(OBJECTIVES[1], help="seconds", above=0)
    credit: str = _CREDIT

    def check(self) -> None:
        if self.credit == FORESEEN and (self.ttft_objective, self.tpot_objective) != OBJECTIVES:
            raise InputError(
                f"{self.flag('credit')} foreseen counts misses of {OBJECTIVES[0]:g} s and {OBJECTIVES[1]:g} s only: "
                "drop ttft_objective and tpot_objective, or use credit observed"
            )

    def values(self, window: Window) -> Floats:
        if self.credit == FORESEEN:
            return -(window.costs[:, COST_TTFT_MISSED] + window.costs[:, COST_TPOT_MISSED])
        late = (window.ttft > self.ttft_objective).astype(np.float64)
        slow = (window.tpot > self.tpot_objective).astype(np.float64)
        return -(window.sums(window.first_token_at, late)[1] + window.sums(window.completed_at, slow)[1])
