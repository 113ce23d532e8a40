"""Means with their intervals, and paired differences of two routers on the same requests."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vidur.metrics.text import NOTHING
from vidur.scheduler.observation import Floats

WIN, TIE, LOSS = "win", "tie", "loss"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and half the width of its interval."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


@dataclass(frozen=True)
class PairedDifference(Estimate):
    """How far a router's mean is from a baseline's, in percent of the latter, with its interval over seeds.

    relative: False where the baseline's mean is 0: then the figures are in the metric's unit. verdict: `win` or `loss`
    where the interval leaves out 0, else `tie`.
    """

    verdict: str
    relative: bool = True

    def __str__(self) -> str:
        """`-6.1 ± 0.9 %`; a dash where there is nothing to measure."""
        if math.isnan(self.mean):
            return NOTHING
        return f"{self.mean:+.1f} ± {self.half:.1f} %" if self.relative else f"{self.mean:+.3g} ± {self.half:.2g}"


def estimate(values: Floats) -> Estimate:
    """The mean of two values or more and its Student t interval: mean ± t s / sqrt(n), n - 1 degrees of freedom."""
    count = len(values)
    half = t_quantile(0.5 + CONFIDENCE / 2.0, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(float(values.mean()), half)


def paired_difference(ours: Floats, theirs: Floats, higher_is_better: bool = False) -> PairedDifference:
    """ours, theirs: one value of a metric, at least 0, for each seed, in the same order.

    The ratio r of the means, and its interval from the residuals ours - r theirs: the ratio estimator (Cochran,
    Sampling Techniques, chapter 6). What scales with the baseline, as delays do with a seed's load, leaves no residual.
    """
    base = float(theirs.mean())
    if base > 0.0:
        ratio = float(ours.mean()) / base
        mean, half = 100.0 * (ratio - 1.0), 100.0 * estimate(ours - ratio * theirs).half / base
    else:
        found = estimate(ours - theirs)
        mean, half = found.mean, found.half
    better = mean if higher_is_better else -mean
    verdict = WIN if better > half else LOSS if better < -half else TIE
    return PairedDifference(mean, half, verdict, base > 0.0)


def t_quantile(probability: float, degrees: int) -> float:
    """A quantile above the median of Student's t distribution with whole degrees of freedom, by bisection."""
    if not 0.5 < probability < 1.0 or degrees < 1:
        raise ValueError(f"no quantile at {probability} of {degrees} degrees of freedom above the median")
    low, high = 0.0, 1.0
    while 0.5 + 0.5 * _within(high, degrees) < probability:
        high *= 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        if 0.5 + 0.5 * _within(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _within(t: float, degrees: int) -> float:
    """P(|T| < t): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for power in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return 2.0 / math.pi * (angle + sine * total) if odd else sine * total
