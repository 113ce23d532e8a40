"""The results of a sweep and their comparisons."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vidur.bootstrap import CONFIDENCE
from vidur.compare.figures import CACHE_METRICS, HIGHER_IS_BETTER, METRICS, metric_unit
from vidur.compare.record import CellRecord
from vidur.compare.scenario import Scenario
from vidur.compare.statistics import TIE, Estimate, PairedDifference, estimate, holm, paired_difference
from vidur.observation import Floats


@dataclass(frozen=True)
class CellFailure:
    """A failed simulation: the command that repeats it, and the error."""

    point: str
    scheduler: str
    seed: int
    command: str
    error: str


@dataclass(frozen=True)
class PointResults:
    """The results of a scenario at one load and number of replicas.

    records, commands: by scheduler and seed, of cells that did not fail, without schedulers left out here. seeds: the
    requested ones.
    """

    scenario: Scenario
    records: Mapping[str, Mapping[int, CellRecord]]
    commands: Mapping[str, Mapping[int, str]]
    seeds: Sequence[int]

    @property
    def missing(self) -> int:
        """The number of failed cells."""
        return sum(len(self.seeds) - len(records) for records in self.records.values())

    @property
    def complete(self) -> bool:
        return not self.missing

    def values(self, scheduler: str, metric: str) -> dict[int, float]:
        """Return a metric by seed, without seeds at which it is undefined."""
        records = self.records.get(scheduler, {})
        values = {seed: record.figures.get(metric, math.nan) for seed, record in records.items()}
        return {seed: value for seed, value in sorted(values.items()) if not math.isnan(value)}

    def mean(self, scheduler: str, metric: str) -> Estimate | None:
        """Return the mean over seeds with its interval; None if fewer than two have a value."""
        values = self.values(scheduler, metric)
        return estimate(np.array(list(values.values()))) if len(values) > 1 else None

    def pairs(self, scheduler: str, baseline: str, metric: str) -> tuple[Floats, Floats]:
        """Return both schedulers' values at their common seeds."""
        ours, theirs = self.values(scheduler, metric), self.values(baseline, metric)
        both = [seed for seed in ours if seed in theirs]
        return np.array([ours[seed] for seed in both]), np.array([theirs[seed] for seed in both])


@dataclass(frozen=True)
class Comparison:
    """A scheduler's difference from the baseline. adjusted: its p-value after Holm's correction. verdict: by that."""

    difference: PairedDifference
    adjusted: float
    verdict: str


@dataclass(frozen=True)
class Results:
    """The results of a sweep. metric: the headline. command: reproduces the figures. policies: SHA-256 of the learned
    router's checkpoints, by scheduler. aimed_width: of --seeds auto, in percentage points."""

    title: str
    points: Sequence[PointResults]
    schedulers: Sequence[str]
    baseline: str
    metric: str
    requests: int
    command: str
    date: str
    machine: str
    policies: Mapping[str, str]
    failures: Sequence[CellFailure]
    aimed_width: float | None = None

    @property
    def others(self) -> list[str]:
        """The schedulers except the baseline."""
        return [name for name in self.schedulers if name != self.baseline]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """METRICS, and CACHE_METRICS if any simulation has them."""
        every = (record for point in self.points for records in point.records.values() for record in records.values())
        shown = METRICS + CACHE_METRICS
        return shown if any(CACHE_METRICS[0] in record.figures for record in every) else METRICS

    def comparison(self, point: PointResults, scheduler: str, metric: str) -> Comparison | None:
        """Compare with the baseline, corrected for all comparisons at the point in that metric.

        None if fewer than two seeds have both values.
        """
        key = (point.scenario.label, metric)
        if key not in self._compared:
            self._compared[key] = self._compare(point, metric)
        return self._compared[key].get(scheduler)

    @cached_property
    def _compared(self) -> dict[tuple[str, str], dict[str, Comparison]]:
        """Computed comparisons by the point's label and the metric."""
        return {}

    def _compare(self, point: PointResults, metric: str) -> dict[str, Comparison]:
        differences = {}
        for scheduler in self.others:
            ours, theirs = point.pairs(scheduler, self.baseline, metric)
            if len(ours) > 1:
                differences[scheduler] = paired_difference(ours, theirs, metric in HIGHER_IS_BETTER, bootstrap=True)
        adjusted = holm([difference.p_value for difference in differences.values()])
        return {
            scheduler: Comparison(difference, value, difference.verdict if value < 1.0 - CONFIDENCE else TIE)
            for (scheduler, difference), value in zip(differences.items(), adjusted, strict=True)
        }

    def best(self, point: PointResults, metric: str) -> str | None:
        """Return the scheduler with the best mean; None if none has a mean."""
        sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
        means = {name: sign * mean.mean for name in self.schedulers if (mean := point.mean(name, metric)) is not None}
        return min(means, key=means.__getitem__) if means else None

    def width(self, point: PointResults) -> float:
        """Return the width of the widest interval of the headline's differences, in percent of the baseline's mean."""
        comparisons = [self.comparison(point, scheduler, self.metric) for scheduler in self.others]
        return max((2.0 * item.difference.half for item in comparisons if item is not None), default=0.0)

    @property
    def too_wide(self) -> list[PointResults]:
        """The points at which --seeds auto stopped above its width."""
        return [point for point in self.points if self.aimed_width is not None and self.width(point) > self.aimed_width]

    def rows(self) -> list[dict[str, Any]]:
        """Return plain values, a row for each scenario, load, number of replicas, scheduler and metric."""
        return [
            self._row(point, scheduler, metric, mean)
            for point in self.points
            for scheduler in self.schedulers
            for metric in self.metrics
            if (mean := point.mean(scheduler, metric)) is not None
        ]

    def _row(self, point: PointResults, scheduler: str, metric: str, mean: Estimate) -> dict[str, Any]:
        comparison = self.comparison(point, scheduler, metric)
        difference = None if comparison is None else comparison.difference
        return {
            "scenario": point.scenario.name,
            "load": point.scenario.load,
            "qps": point.scenario.rate,
            "replicas": point.scenario.num_replicas,
            "scheduler": scheduler,
            "metric": metric,
            "unit": metric_unit(metric),
            "seeds": len(point.values(scheduler, metric)),
            "mean": mean.mean,
            "interval": [mean.low, mean.high],
            "baseline": self.baseline,
            "difference": None if difference is None else difference.mean,
            "difference_interval": None if difference is None else _finite([difference.low, difference.high]),
            "difference_unit": None if difference is None else "percent" if difference.relative else "the metric's",
            "p_value": None if difference is None else difference.p_value,
            "adjusted_p_value": None if comparison is None else comparison.adjusted,
            "verdict": "baseline" if scheduler == self.baseline else None if comparison is None else comparison.verdict,
        }


def _finite(ends: list[float]) -> list[float] | None:
    return ends if all(map(math.isfinite, ends)) else None


def machine_text() -> str:
    """Describe this machine: `2 cores, x86_64, Linux 6.1, Python 3.11.7`."""
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{cores} cores, {platform.machine()}, {system}, Python {platform.python_version()}"
