"""Means with their intervals, and paired differences of two routers on the same requests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vidur.scheduler.observation import Floats

WIN, TIE, LOSS = "win", "tie", "loss"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval; from one seed the interval is (nan, nan)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """How far a router is from a baseline, in percent of the baseline's mean, with its interval over seeds.

    Where the baseline's mean is 0 the figures are in the metric's unit, and `relative` is False. verdict: `win` or
    `loss` where the interval leaves out 0, else `tie`.
    """

    mean: float
    low: float
    high: float
    verdict: str
    relative: bool = True

    def scaled(self, value: float) -> str:
        """`value`, one of the figures, as text with a sign and its unit."""
        return f"{value:+.1f} %" if self.relative else f"{value:+.3g}"


def estimate(values: Floats) -> Estimate:
    """The mean and its Student t interval: mean -+ t s / sqrt(n), with n - 1 degrees of freedom."""
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Estimate(mean, math.nan, math.nan)
    half = t_quantile(0.5 + CONFIDENCE / 2.0, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


def paired_difference(ours: Floats, theirs: Floats, higher_is_better: bool = False) -> PairedDifference:
    """ours, theirs: one value of a metric for each seed, in the same order.

    The interval is that of the mean of ours - theirs; the baseline's mean, which it is divided by, counts as known.
    """
    difference = estimate(ours - theirs)
    base = abs(float(theirs.mean()))
    unit = 100.0 / base if base > 0.0 else 1.0
    mean, low, high = (unit * value for value in (difference.mean, difference.low, difference.high))
    verdict = TIE
    if low > 0.0:
        verdict = WIN if higher_is_better else LOSS
    elif high < 0.0:
        verdict = LOSS if higher_is_better else WIN
    return PairedDifference(mean, low, high, verdict, base > 0.0)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile, above the median, of Student's t distribution; by bisection."""
    if not 0.5 < probability < 1.0 or degrees < 1:
        raise ValueError(f"no quantile at {probability} of {degrees} degrees of freedom above the median")
    low, high = 0.0, 1.0
    while 0.5 + 0.5 * _within(high, degrees) < probability:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if 0.5 + 0.5 * _within(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _within(t: float, degrees: int) -> float:
    """P(|T| < t) for whole degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for power in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return 2.0 / math.pi * (angle + sine * total) if odd else sine * total


def mean_of(values: Floats) -> float:
    """The mean of what is not nan; nan where nothing is."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else math.nan
