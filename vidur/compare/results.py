"""What a sweep found, and what can be said of it."""

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
from vidur.compare.figures import HIGHER_IS_BETTER, METRICS, metric_unit
from vidur.compare.record import CellRecord
from vidur.compare.scenario import Scenario
from vidur.compare.statistics import TIE, Estimate, PairedDifference, estimate, holm, paired_difference
from vidur.observation import Floats


@dataclass(frozen=True)
class CellFailure:
    """A simulation that gave nothing: what would repeat it, and why."""

    point: str
    scheduler: str
    seed: int
    command: str
    error: str


@dataclass(frozen=True)
class PointResults:
    """A scenario at one load on so many replicas. records, commands: by scheduler and seed, of the cells that did not
    fail; schedulers that are left out here are not in them. seeds: those that were asked for."""

    scenario: Scenario
    records: Mapping[str, Mapping[int, CellRecord]]
    commands: Mapping[str, Mapping[int, str]]
    seeds: Sequence[int]

    @property
    def missing(self) -> int:
        """How many cells failed."""
        return sum(len(self.seeds) - len(its) for its in self.records.values())

    @property
    def complete(self) -> bool:
        return not self.missing

    def values(self, scheduler: str, metric: str) -> dict[int, float]:
        """By seed; without the seeds at which there was nothing to measure."""
        found = {seed: record.figures[metric] for seed, record in self.records.get(scheduler, {}).items()}
        return {seed: value for seed, value in sorted(found.items()) if not math.isnan(value)}

    def mean(self, scheduler: str, metric: str) -> Estimate | None:
        """Over the seeds, with its interval; None where fewer than two have a value."""
        values = self.values(scheduler, metric)
        return estimate(np.array(list(values.values()))) if len(values) > 1 else None

    def pairs(self, scheduler: str, baseline: str, metric: str) -> tuple[Floats, Floats]:
        """The values of both at the seeds that both have."""
        ours, theirs = self.values(scheduler, metric), self.values(baseline, metric)
        both = [seed for seed in ours if seed in theirs]
        return np.array([ours[seed] for seed in both]), np.array([theirs[seed] for seed in both])


@dataclass(frozen=True)
class Comparison:
    """A scheduler's difference from the baseline. adjusted: its p-value by Holm's correction. verdict: by that."""

    difference: PairedDifference
    adjusted: float
    verdict: str


@dataclass(frozen=True)
class Results:
    """Of a sweep. metric: the headline. command: what gives the same figures. machine: where it ran. policies: the
    checkpoints of the learned router, SHA-256 by scheduler. aimed_width: of --seeds auto, in percentage points."""

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
        """The schedulers but the baseline."""
        return [name for name in self.schedulers if name != self.baseline]

    def comparison(self, its: PointResults, scheduler: str, metric: str) -> Comparison | None:
        """With the baseline, corrected for all the comparisons of the point in that metric; None where fewer than two
        seeds have a value in both."""
        key = (its.scenario.label, metric)
        if key not in self._compared:
            self._compared[key] = self._compare(its, metric)
        return self._compared[key].get(scheduler)

    @cached_property
    def _compared(self) -> dict[tuple[str, str], dict[str, Comparison]]:
        """By the point's label and the metric, as far as they were asked for."""
        return {}

    def _compare(self, its: PointResults, metric: str) -> dict[str, Comparison]:
        found = {}
        for scheduler in self.others:
            ours, theirs = its.pairs(scheduler, self.baseline, metric)
            if len(ours) > 1:
                found[scheduler] = paired_difference(ours, theirs, metric in HIGHER_IS_BETTER, bootstrap=True)
        adjusted = holm([difference.p_value for difference in found.values()])
        return {
            scheduler: Comparison(difference, value, difference.verdict if value < 1.0 - CONFIDENCE else TIE)
            for (scheduler, difference), value in zip(found.items(), adjusted, strict=True)
        }

    def best(self, its: PointResults, metric: str) -> str | None:
        """The scheduler with the best mean; None where there is none."""
        sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
        means = {name: sign * mean.mean for name in self.schedulers if (mean := its.mean(name, metric)) is not None}
        return min(means, key=means.__getitem__) if means else None

    def width(self, its: PointResults) -> float:
        """Of the widest interval of the headline's differences at a point, in percent of the baseline's mean."""
        found = [self.comparison(its, scheduler, self.metric) for scheduler in self.others]
        widths = [2.0 * one.difference.half for one in found if one is not None]
        return max(widths, default=0.0)

    @property
    def too_wide(self) -> list[PointResults]:
        """The points at which --seeds auto ended without reaching its width."""
        return [its for its in self.points if self.aimed_width is not None and self.width(its) > self.aimed_width]

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, one row for each scenario, load, number of replicas, scheduler and metric."""
        return [
            self._row(its, scheduler, metric, mean)
            for its in self.points
            for scheduler in self.schedulers
            for metric in METRICS
            if (mean := its.mean(scheduler, metric)) is not None
        ]

    def _row(self, its: PointResults, scheduler: str, metric: str, mean: Estimate) -> dict[str, Any]:
        found = self.comparison(its, scheduler, metric)
        difference = None if found is None else found.difference
        return {
            "scenario": its.scenario.name,
            "load": its.scenario.load,
            "qps": its.scenario.rate,
            "replicas": its.scenario.num_replicas,
            "scheduler": scheduler,
            "metric": metric,
            "unit": metric_unit(metric),
            "seeds": len(its.values(scheduler, metric)),
            "mean": mean.mean,
            "interval": [mean.low, mean.high],
            "baseline": self.baseline,
            "difference": None if difference is None else difference.mean,
            "difference_interval": None if difference is None else _finite([difference.low, difference.high]),
            "difference_unit": None if difference is None else "percent" if difference.relative else "the metric's",
            "p_value": None if difference is None else difference.p_value,
            "adjusted_p_value": None if found is None else found.adjusted,
            "verdict": "baseline" if scheduler == self.baseline else None if found is None else found.verdict,
        }


def _finite(ends: list[float]) -> list[float] | None:
    return ends if all(map(math.isfinite, ends)) else None


def machine_text() -> str:
    """`2 cores, x86_64, Linux 6.1, Python 3.11.7`."""
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{cores} cores, {platform.machine()}, {system}, Python {platform.python_version()}"
