"""A sweep: schedulers x scenarios x loads x numbers of replicas x seeds."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from vidur.compare.capacity import Capacities
from vidur.compare.cell import Cell, workload_digest
from vidur.compare.config import AUTO, CompareConfig, names
from vidur.compare.executor import Executor, Failure, ProcessExecutor
from vidur.compare.figures import CACHE_METRICS, METRICS
from vidur.compare.policy_file import keep_policy
from vidur.compare.record import CellRecord
from vidur.compare.results import CellFailure, PointResults, Results, machine_text
from vidur.compare.scenario import GREATEST_LOAD, Scenario, scenario_names
from vidur.compare.schedulers import parse_scheduler, parse_schedulers
from vidur.compare.store import CellStore
from vidur.compare.sweep_file import Entry, SweepFile
from vidur.compare.tuning import SIZE_SPLIT, Thresholds, most_simulations, tune_size_split
from vidur.compare.workload import caches_prefixes
from vidur.config import BaseGlobalSchedulerConfig, PPOGlobalSchedulerConfig, SizeSplitGlobalSchedulerConfig
from vidur.config.base import settings_of
from vidur.errors import InputError, unknown_name
from vidur.progress import Progress

# --seeds auto: initial seeds, and the interval width in percentage points at which it stops.
AUTO_SEEDS, AUTO_WIDTH = 5, 2.0


def make_executor(config: CompareConfig) -> Executor:
    """Make the executor that --executor names. Raises InputError."""
    if config.executor == "ray":
        from vidur.compare.ray_executor import RayExecutor

        return RayExecutor(config.ray_address, config.workers)
    return ProcessExecutor(config.workers)


class Sweep:
    """A validated sweep, and the folder of its finished simulations.

    thresholds: tuned thresholds of size_split, by the label of a point.
    """

    def __init__(
        self,
        config: CompareConfig,
        file: SweepFile | None = None,
        source: str | None = None,
        schedulers: Mapping[str, BaseGlobalSchedulerConfig] | None = None,
        tune: bool = False,
    ) -> None:
        """Validate a sweep. Raises InputError.

        file, source: the sweep file, if any, and its name on the command line. schedulers: by name, in place of
        --schedulers. tune: whether to tune size_split's thresholds at each point.
        """
        self._config = config
        self._folder = Path(config.output)
        self._source = source
        self._given = file.flags if file is not None else {}
        self._title = file.title if file is not None else "Comparison"
        if config.metric not in METRICS + CACHE_METRICS:
            raise unknown_name("metric", config.metric, METRICS + CACHE_METRICS)
        self._schedulers = _schedulers(config) if schedulers is None else dict(schedulers)
        self._tune = tune
        self.thresholds: dict[str, Thresholds] = {}
        self._policies = {
            name: keep_policy(router.checkpoint, self._folder)
            for name, router in self._schedulers.items()
            if isinstance(router, PPOGlobalSchedulerConfig)
        }
        self._points, self._without = [], {}
        for entry in _entries(config, file):
            for point in points_of(entry, config):
                self._points.append(point)
                self._without[point.label] = frozenset(entry.without) - {config.baseline}
        if not self._points:
            raise InputError("the sweep has no scenario")
        if config.metric in CACHE_METRICS and not any(caches_prefixes(point.config) for point in self._points):
            raise InputError(
                f"--metric {config.metric}: no replica of the sweep caches prefixes; that takes vllm_v1 with "
                "enable_prefix_caching, and requests whose content is known"
            )
        labels = [point.label for point in self._points]
        for label in labels:
            if labels.count(label) > 1:
                raise InputError(f"{label} occurs twice: give one of the two another name")

    def run(self, executor: Executor) -> Results:
        """Run the simulations that are not on disk. Raises InputError for rates far above a cluster's capacity."""
        with Progress("capacities measured", len(self._points)) as progress:
            executor.on_wait = progress.tick
            Capacities().measure({point.label: point.config for point in self._points}, executor, progress.advance)
            for point in self._points:
                _check_reachable(point)
            store = CellStore(self._folder / "cells", executor)
            if self._tune:
                progress.stage(f"simulations to tune {SIZE_SPLIT}", most_simulations(len(self._points)))
                tuned = tune_size_split(self._points, self._config.requests, store, progress.advance)
                self.thresholds = {point.label: best for point, best in zip(self._points, tuned, strict=True)}
            count = self._config.num_seeds or AUTO_SEEDS
            cells = [cell for point in self._points for cell in self._cells(point, range(count))]
            progress.stage("simulations", len(cells))
            outcomes = store.run(cells, progress.advance)
            results = self._results(cells, outcomes)
            while self._config.seeds == AUTO and (more := self._more_seeds(results)):
                progress.stage("simulations of more seeds", len(more))
                cells += more
                outcomes += store.run(more, progress.advance)
                results = self._results(cells, outcomes)
        return results

    def _cells(self, point: Scenario, numbers: Sequence[int]) -> list[Cell]:
        """Return the cells of every scheduler at a point for these seeds, counted from the first."""
        cells = []
        for seed in (self._config.first_seed + number for number in numbers):
            config = point.configure(seed, self._config.requests)
            workload = workload_digest(point.requests(seed, self._config.requests))
            for name, router in self._schedulers_at(point).items():
                cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
                routed = dataclasses.replace(config, cluster_config=cluster)
                policy = self._policies.get(name)
                cells.append(Cell(point.label, name, seed, routed, point.objectives, workload, policy))
        return cells

    def _schedulers_at(self, point: Scenario) -> dict[str, BaseGlobalSchedulerConfig]:
        routers = {name: item for name, item in self._schedulers.items() if name not in self._without[point.label]}
        if point.label in self.thresholds:
            routers[SIZE_SPLIT] = SizeSplitGlobalSchedulerConfig(thresholds=self.thresholds[point.label])
        return routers

    def _more_seeds(self, results: Results) -> list[Cell]:
        """Return cells of further seeds for points whose intervals are too wide."""
        cells = []
        for point in results.points:
            count, width = len(point.seeds), results.width(point)
            if width > AUTO_WIDTH and count < self._config.max_seeds and point.complete:
                # Widths shrink with the root of the number of seeds; at most double it at once.
                wanted = count * min(2.0, (width / AUTO_WIDTH) ** 2)
                until = min(self._config.max_seeds, max(count + 1, math.ceil(wanted)))
                cells += self._cells(point.scenario, range(count, until))
        return cells

    def _results(self, cells: Sequence[Cell], outcomes: Sequence[CellRecord | Failure]) -> Results:
        records: dict[str, dict[str, dict[int, CellRecord]]] = {}
        commands: dict[str, dict[str, dict[int, str]]] = {}
        failures = []
        for cell, outcome in zip(cells, outcomes, strict=True):
            if isinstance(outcome, Failure):
                failures.append(CellFailure(cell.point, cell.router, cell.seed, cell.command, outcome.error))
            else:
                records.setdefault(cell.point, {}).setdefault(cell.router, {})[cell.seed] = outcome
                commands.setdefault(cell.point, {}).setdefault(cell.router, {})[cell.seed] = cell.command
        seeds = {
            point.label: sorted({cell.seed for cell in cells if cell.point == point.label}) for point in self._points
        }
        return Results(
            title=self._title,
            points=[
                PointResults(
                    point,
                    {name: records.get(point.label, {}).get(name, {}) for name in self._schedulers_at(point)},
                    {name: commands.get(point.label, {}).get(name, {}) for name in self._schedulers_at(point)},
                    seeds[point.label],
                )
                for point in self._points
            ],
            schedulers=list(self._schedulers),
            baseline=self._config.baseline,
            metric=self._config.metric,
            requests=self._config.requests,
            command=self._command(),
            date=date.today().isoformat(),
            machine=machine_text(),
            policies={name: policy.digest for name, policy in self._policies.items()},
            failures=failures,
            aimed_width=AUTO_WIDTH if self._config.seeds == AUTO else None,
        )

    def _command(self) -> str:
        """Return the command that reproduces the figures, with flags that affect them and differ from defaults."""
        words = ["python", "-m", "vidur.compare", *([self._source] if self._source is not None else [])]
        return shlex.join([*words, *self._flags()])

    def _flags(self) -> list[str]:
        defaults = CompareConfig(**self._given)
        words = []
        for name in (item.name for item in settings_of(CompareConfig) if item.name not in _WITHOUT_EFFECT):
            value = getattr(self._config, name)
            if value != getattr(defaults, name):
                flag = f"--{name}"
                words += [flag if value else f"--no-{name}"] if isinstance(value, bool) else [flag, str(value)]
        return words


# Flags that do not affect figures.
_WITHOUT_EFFECT = ("executor", "ray_address", "workers", "output", "markdown", "json")


def _schedulers(config: CompareConfig) -> dict[str, BaseGlobalSchedulerConfig]:
    """Return the schedulers by name; the baseline goes first if it is not among them."""
    routers = parse_schedulers(config.schedulers)
    if config.lookahead:
        routers |= parse_schedulers("lookahead")
    if config.baseline not in routers:
        routers = {config.baseline: parse_scheduler(config.baseline), **routers}
    return routers


def _entries(config: CompareConfig, file: SweepFile | None) -> Sequence[Entry]:
    if file is None:
        if config.scenario is None:
            raise InputError("nothing to compare in: give --scenario, or a sweep file")
        chosen = scenario_names() if config.scenario == "all" else names(config.scenario, "--scenario")
        return [Entry(Scenario.read(name)) for name in chosen]
    if config.scenario in (None, "all"):
        return file.entries
    known = [entry.scenario.name for entry in file.entries]
    for name in names(config.scenario or "", "--scenario"):
        if name not in known:
            raise unknown_name("scenario of the sweep", name, known)
    return [entry for entry in file.entries if entry.scenario.name in names(config.scenario or "", "--scenario")]


def points_of(entry: Entry, config: CompareConfig) -> list[Scenario]:
    """Expand an entry over its loads and numbers of replicas; flags override the entry."""
    loads: Sequence[float | None] = config.loads or entry.loads or (None,)
    rates = config.rates or (entry.rates if config.loads is None else None)
    points = []
    for count in config.replica_counts or entry.replicas or (None,):
        scaled = entry.scenario if count is None else entry.scenario.scaled(count)
        if rates:
            points += [dataclasses.replace(scaled, qps=rate) for rate in rates]
            continue
        for load in loads:
            if load is not None and load > GREATEST_LOAD:
                raise InputError(f"{entry.scenario.name}: a load of {load:g} {_BEYOND}")
            points.append(scaled if load is None else scaled.at_load(load))
    return points


_BEYOND = f"is too high: above {GREATEST_LOAD:g} times its capacity a cluster only builds up queues"


def _check_reachable(point: Scenario) -> None:
    if point.load > GREATEST_LOAD:
        raise InputError(
            f"{point.name}: {point.rate:g} requests/s {_BEYOND}; {point.num_replicas} replicas have a capacity of "
            f"{point.capacity:.3g} requests/s"
        )
