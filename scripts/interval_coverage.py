"""Measure how often confidence intervals of a paired difference contain the true value, by method (docs/compare.md).

One of two routers is 5 % better, on a few seeds, with normal noise, log-normal noise of 30 %, or a ratio with an
exponential part. Student's t and the symmetric bootstrap-t are those of vidur.compare.statistics; they are compared
with the percentile bootstrap and BCa (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3 and 14.3).

python scripts/interval_coverage.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

from vidur.compare.statistics import paired_difference
from vidur.observation import Floats

TRUTH, TRIALS, RESAMPLES = -5.0, 2000, 2000
NORMAL = NormalDist()
Pair = tuple[Floats, Floats]


def normal(rng: np.random.Generator, count: int) -> Pair:
    level = rng.uniform(1.0, 3.0, count)
    return level * rng.normal(0.95, 0.03, count), level * rng.normal(1.0, 0.03, count)


def log_normal(rng: np.random.Generator, count: int) -> Pair:
    level = np.exp(rng.normal(0.0, 0.5, count))
    noise = np.exp(rng.normal(-0.045, 0.3, (2, count)))
    return 0.95 * level * noise[0], level * noise[1]


def skewed_ratio(rng: np.random.Generator, count: int) -> Pair:
    level = np.exp(rng.normal(0.0, 0.2, count))
    return level * (0.85 + rng.exponential(0.1, count)), level


def percentile_and_bca(ours: Floats, theirs: Floats, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield the two intervals of the difference in percent: float64[2] each."""
    count = len(ours)
    rows = rng.integers(0, count, (RESAMPLES, count))
    ratios = ours[rows].mean(axis=1) / theirs[rows].mean(axis=1)
    yield 100.0 * (np.quantile(ratios, [0.025, 0.975]) - 1.0)
    ratio = ours.mean() / theirs.mean()
    bias = NORMAL.inv_cdf(float(np.clip((ratios < ratio).mean(), 1e-6, 1.0 - 1e-6)))
    without = (ours.sum() - ours) / (theirs.sum() - theirs)
    spread = without.mean() - without
    skewness = float((spread**3).sum() / (6.0 * (spread**2).sum() ** 1.5))
    ends = [
        NORMAL.cdf(bias + (bias + z) / (1.0 - skewness * (bias + z)))
        for z in (NORMAL.inv_cdf(0.025), NORMAL.inv_cdf(0.975))
    ]
    yield 100.0 * (np.quantile(ratios, ends) - 1.0)


def coverage(draw: Callable[[np.random.Generator, int], Pair], count: int) -> Floats:
    """Return the coverage in percent of Student's t, percentile, BCa and symmetric bootstrap-t."""
    rng = np.random.default_rng(1)
    covered = np.zeros(4)
    for _ in range(TRIALS):
        ours, theirs = draw(rng, count)
        student, bootstrap = (paired_difference(ours, theirs, bootstrap=flag) for flag in (False, True))
        percentile, bca = percentile_and_bca(ours, theirs, rng)
        ends = [(student.low, student.high), percentile, bca, (bootstrap.low, bootstrap.high)]
        covered += [low <= TRUTH <= high for low, high in ends]
    return 100.0 * covered / TRIALS


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| seeds, values | Student's t | percentile | BCa | symmetric bootstrap-t |")
    print("|---|---|---|---|---|")
    for count in (5, 10):
        for draw in (normal, log_normal, skewed_ratio):
            figures = " | ".join(f"{value:.1f}" for value in coverage(draw, count))
            print(f"| {count}, {draw.__name__.replace('_', ' ')} | {figures} |")


if __name__ == "__main__":
    main()
