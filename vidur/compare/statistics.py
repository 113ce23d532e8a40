"""Means with confidence intervals, and paired differences of two routers on the same requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidur.bootstrap import CONFIDENCE, resampled_rows
from vidur.metrics.text import NOTHING
from vidur.observation import Floats

WIN, TIE, LOSS = "win", "tie", "loss"
# With fewer seeds, too many bootstrap resamples repeat a single seed.
BOOTSTRAP_SEEDS = 4
# Relative differences below this are rounding error.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and half the width of its confidence interval."""

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
    """The difference of a router's mean from a baseline's, in percent of the latter, with its interval over seeds.

    relative: False if the baseline's mean is 0; then figures are in the metric's unit. verdict: `win` or `loss` if the
    interval excludes 0, else `tie`. p_value: two-sided; below 0.05 if the interval excludes 0.
    """

    verdict: str
    relative: bool = True
    p_value: float = math.nan

    def __str__(self) -> str:
        """Return `-6.1 ± 0.9 %`, or a dash if undefined; unbounded if the baseline is 0 in a resample."""
        if math.isnan(self.mean):
            return NOTHING
        if math.isinf(self.half):
            return f"{self.mean:+.1f} %, without bound"
        return f"{self.mean:+.1f} ± {self.half:.1f} %" if self.relative else f"{self.mean:+.3g} ± {self.half:.2g}"


def estimate(values: Floats) -> Estimate:
    """Return the mean of at least two values and its Student t interval, mean ± t s / sqrt(n), n - 1 degrees."""
    count = len(values)
    half = t_quantile(0.5 + CONFIDENCE / 2.0, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(float(values.mean()), half)


def paired_difference(
    ours: Floats, theirs: Floats, higher_is_better: bool = False, bootstrap: bool = False
) -> PairedDifference:
    """Compare a metric, at least 0, of two routers; ours[i] and theirs[i] are of the same seed, at least two seeds.

    Estimates the ratio r of the means from the residuals ours - r theirs (ratio estimator: Cochran, Sampling
    Techniques, chapter 6): values that scale with the baseline, as delays do with a seed's load, leave no residual.
    The standard error is multiplied by Student's t, or with `bootstrap` and at least BOOTSTRAP_SEEDS by the quantile of
    |t| over resamples of the seeds (symmetric bootstrap-t: Hall, The Bootstrap and Edgeworth Expansion, 3.5), which
    tolerates skewed values. The p-value is Student's, of t reduced in the same proportion.
    """
    count, base = len(ours), float(theirs.mean())
    relative = base > 0.0
    ratio = float(ours.mean()) / base if relative else 1.0
    residuals = ours - ratio * theirs
    scale = 100.0 / base if relative else 1.0
    mean = 100.0 * (ratio - 1.0) if relative else float(residuals.mean())
    error = scale * float(residuals.std(ddof=1)) / math.sqrt(count)
    least = _ROUNDING * scale * max(float(ours.mean()), base)
    mean, error = 0.0 if abs(mean) <= least else mean, 0.0 if error <= least else error
    student = factor = t_quantile(0.5 + CONFIDENCE / 2.0, count - 1)
    if bootstrap and count >= BOOTSTRAP_SEEDS:
        factor = _bootstrap_quantile(ours, theirs, relative)
    # Unbounded if too many resamples have no spread or a baseline of 0, unless nothing differs.
    bounded = math.isfinite(factor) or mean == 0.0 == error
    half = factor * error if math.isfinite(factor) else 0.0 if bounded else math.inf
    better = mean if higher_is_better else -mean
    verdict = WIN if better > half else LOSS if better < -half else TIE
    if mean == 0.0 or not bounded:
        p_value = 1.0
    elif error == 0.0:
        p_value = 0.0
    else:
        p_value = max(0.0, 1.0 - _within(abs(mean) / error * student / factor, count - 1))
    return PairedDifference(mean, half, verdict, relative, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm, 1979): rejecting those below a level makes any false rejection
    at most that likely, whatever their dependence."""
    adjusted, reached = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def _bootstrap_quantile(ours: Floats, theirs: Floats, relative: bool) -> float:
    """Return the CONFIDENCE quantile of |t| over resamples, with t the deviation of the ratio (else the difference)
    over the resample's standard error; infinite for a resample without spread."""
    rows = resampled_rows(len(ours))
    x, y = ours[rows], theirs[rows]
    base = y.mean(axis=1) if relative else np.ones(len(rows))
    ratio = ours.mean() / theirs.mean() if relative else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        if relative:
            ratios = x.mean(axis=1) / base
            deviations, residuals = ratios - ratio, x - ratios[:, None] * y
        else:
            residuals = x - y
            deviations = residuals.mean(axis=1) - (ours - theirs).mean()
        errors = residuals.std(axis=1, ddof=1) / math.sqrt(len(ours)) / base
        t = np.abs(deviations) / errors
    t[~(errors > _ROUNDING * (np.abs(deviations) + abs(ratio)))] = np.inf
    t[np.abs(deviations) <= _ROUNDING * abs(ratio)] = 0.0
    return float(np.quantile(t, CONFIDENCE, method="inverted_cdf"))


def t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile above the median of Student's t with integer degrees of freedom, by bisection."""
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
    """Return P(|T| < t): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for power in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return 2.0 / math.pi * (angle + sine * total) if odd else sine * total
