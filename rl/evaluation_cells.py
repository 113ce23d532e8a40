"""Cells: one simulation each, its figures kept on disk, so that an evaluation goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

import rl
import vidur
from vidur.atomic import write_text
from vidur.config import PPOGlobalSchedulerConfig, SimulationConfig
from vidur.engine.recording import FINISHED, Recording
from vidur.metrics.latency import latencies, meets_objectives
from vidur.metrics.statistics import statistics
from vidur.simulator import Simulator

# Of the requests, in the order of their arrival, so many are left out at either end.
WARM_UP = 0.05
# Prompts of more tokens than this are long.
LONG_PROMPT = 3000
_TIMES, _FIGURES = ("ttft", "tpot", "e2e"), ("mean", "p50", "p90", "p99")
METRICS = (*(f"{figure}_{time}" for time in _TIMES for figure in _FIGURES), "long_p99_ttft", "goodput", "preemptions")
HIGHER_IS_BETTER = ("goodput",)

# What a simulation's figures depend on; the learned router's own code comes on top.
_SIMULATOR = ("engine", "scheduler", "execution_time_predictor", "request_generator", "config", "metrics",
              "memory_planner.py", "simulator.py")  # fmt: skip
_ROUTER = ("kernels", "encoder.py", "policy.py", "scheduler.py", "checkpoint.py")

Figures = dict[str, float]


@dataclass(frozen=True)
class Objectives:
    """Seconds that a request should keep to, for goodput."""

    ttft: float
    tpot: float


@dataclass(frozen=True)
class Cell:
    """One simulation: what is simulated, and the names under which its figures are looked up.

    policy: the hash of the checkpoint that `config` names; its path does not count.
    """

    scenario: str
    router: str
    seed: int
    config: SimulationConfig
    objectives: Objectives
    policy: str = ""

    @cached_property
    def key(self) -> str:
        """A hash of all that the figures depend on: configuration, checkpoint, objectives and code."""
        document = self.config.to_dict()
        learned = isinstance(self.config.cluster_config.global_scheduler_config, PPOGlobalSchedulerConfig)
        if learned:
            document["cluster_config"]["global_scheduler_config"]["checkpoint"] = self.policy
        parts = [document, vars(self.objectives), WARM_UP, LONG_PROMPT, code_version(learned)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def simulate(self) -> Figures:
        recording = Simulator(self.config).run().recording
        return figures_of(recording, self.objectives)


def figures_of(recording: Recording, objectives: Objectives) -> Figures:
    """The METRICS of a run. Times in seconds; goodput: requests per second of the time over which they arrived;
    preemptions: of the whole run. A metric of nothing is nan."""
    requests = recording.requests
    count = len(requests["arrived_at"])
    cut = int(WARM_UP * count)
    counted = np.zeros(count, np.bool_)
    counted[cut : count - cut] = True
    span = float(np.ptp(requests["arrived_at"][counted]))
    counted &= requests["status"] == FINISHED
    times = latencies(recording, counted)
    figures: Figures = {}
    for time in _TIMES:
        found = statistics(times[time])
        figures |= {f"{figure}_{time}": _number(found[figure]) for figure in _FIGURES}
    long = times["ttft"][requests["num_prefill_tokens"][counted] > LONG_PROMPT]
    figures["long_p99_ttft"] = float(np.percentile(long, 99)) if len(long) else math.nan
    met = meets_objectives(times, objectives.ttft, objectives.tpot)
    figures["goodput"] = float(met.sum() / span) if span > 0.0 else math.nan
    figures["preemptions"] = float(recording.replicas["num_preemptions"].sum())
    return figures


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@cache
def code_version(learned: bool) -> str:
    """A hash of the sources that a simulation's figures depend on."""
    parts = [(Path(vidur.__file__).parent, name) for name in _SIMULATOR]
    if learned:
        parts += [(Path(rl.__file__).parent, name) for name in _ROUTER]
    digest = hashlib.sha256()
    for folder, name in parts:
        path = folder / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(folder)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class CellStore:
    """A folder of finished cells, one file each, and the processes that fill it."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._workers = workers or len(os.sched_getaffinity(0))

    def path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.key}.json"

    def load(self, cell: Cell) -> Figures | None:
        """The figures of a cell that has been finished before; None where there is no whole file of them."""
        try:
            found = json.loads(self.path(cell).read_text(encoding="utf-8"))["figures"]
            return {name: math.nan if found[name] is None else float(found[name]) for name in METRICS}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def run(self, cells: Sequence[Cell], on_finished: Callable[[int], None]) -> list[Figures]:
        """The figures of each cell, simulated where they are not on disk. `on_finished(count)` counts them up."""
        unique = {cell.key: cell for cell in cells}
        figures = {key: found for key, cell in unique.items() if (found := self.load(cell)) is not None}
        on_finished(len(figures))
        missing = [cell for key, cell in unique.items() if key not in figures]
        for cell, found in self._simulated(missing):
            figures[cell.key] = found
            on_finished(1)
        return [figures[cell.key] for cell in cells]

    def _simulated(self, cells: list[Cell]) -> Iterable[tuple[Cell, Figures]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        if min(self._workers, len(cells)) <= 1:
            for cell in cells:
                yield cell, _finish(cell, self.path(cell))
            return
        pool = ProcessPoolExecutor(min(self._workers, len(cells)))
        try:
            waiting: dict[Future[Figures], Cell] = {pool.submit(_finish, cell, self.path(cell)): cell for cell in cells}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finish(cell: Cell, path: Path) -> Figures:
    """Simulate a cell and keep its figures."""
    figures = cell.simulate()
    kept = {name: None if math.isnan(value) else value for name, value in figures.items()}
    names = {"scenario": cell.scenario, "router": cell.router, "seed": cell.seed}
    write_text(path, json.dumps({**names, "figures": kept}, allow_nan=False) + "\n")
    return figures
