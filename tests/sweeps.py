"""Made-up results of sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vidur.compare.figures import METRICS, TIMES
from vidur.compare.record import PROBABILITIES, PROMPT_CLASSES, CellRecord
from vidur.compare.results import CellFailure, PointResults, Results
from vidur.compare.scenario import Scenario

SCHEDULERS = ("round_robin", "lor", "ppo", "lookahead")


def made_up_record(rng: np.random.Generator, factor: float, num_replicas: int) -> CellRecord:
    """Every figure is about `factor`."""
    counts = rng.integers(0, 400, (num_replicas, len(PROMPT_CLASSES) + 1))
    return CellRecord(
        figures={metric: factor * float(rng.uniform(0.99, 1.01)) for metric in METRICS},
        quantiles={time: factor * -np.log1p(-0.999 * PROBABILITIES) for time in TIMES},
        load_edges=np.linspace(0.0, 90.0, 61),
        load=rng.uniform(0.0, 30.0, (num_replicas, 60)),
        placements=counts,
        seconds=0.1,
    )


def made_up_results(
    schedulers: Sequence[str] = SCHEDULERS,
    names: Sequence[str] = ("a93", "b88"),
    loads: Sequence[float] = (0.6, 0.9),
    num_replicas: int = 4,
    seeds: int = 5,
    failures: Sequence[CellFailure] = (),
) -> Results:
    """The first scheduler is the baseline; each further one is 5 % better than the one before in all metrics."""
    rng = np.random.default_rng(0)
    points = []
    for name in names:
        for load in loads:
            scenario = dataclasses.replace(Scenario.read("a93"), name=name).at_load(load)
            if num_replicas != 4:
                scenario = scenario.scaled(num_replicas)
            # Measuring it takes a second.
            scenario.__dict__["capacity"] = 30.0
            factors = {scheduler: 4.0 * load * 0.95**place for place, scheduler in enumerate(schedulers)}
            records = {
                scheduler: {seed: made_up_record(rng, factor, num_replicas) for seed in range(seeds)}
                for scheduler, factor in factors.items()
            }
            commands = {
                scheduler: {seed: f"python -m vidur.main --seed {seed} --router '{scheduler}'" for seed in range(seeds)}
                for scheduler in schedulers
            }
            points.append(PointResults(scenario, records, commands, range(seeds)))
    for failure in failures:
        for its in points:
            if its.scenario.label == failure.point:
                del its.records[failure.scheduler][failure.seed]  # type: ignore[attr-defined]
    return Results(
        title="Made up <b>",
        points=points,
        schedulers=schedulers,
        baseline=schedulers[0],
        metric="mean_e2e",
        requests=100,
        command="python -m vidur.compare --scenario a93,b88",
        date="2026-01-02",
        machine="2 cores",
        policies={"ppo": "ab" * 32} if "ppo" in schedulers else {},
        failures=failures,
    )
