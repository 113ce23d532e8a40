"""Synthetic requests at another rate, or of another seed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from vidur.config import PoissonRequestIntervalGeneratorConfig, SyntheticRequestGeneratorConfig

# Poisson gaps are cut at three times the mean of exponential ones, which shortens them to this.
_POISSON_MEAN_GAP = 1.0 - math.exp(-3.0)


def has_rate(workload: object) -> bool:
    """Whether they are synthetic requests whose intervals have a rate that can be set."""
    return isinstance(workload, SyntheticRequestGeneratorConfig) and hasattr(workload.interval_generator_config, "qps")


def with_rate(workload: SyntheticRequestGeneratorConfig, rate: float) -> SyntheticRequestGeneratorConfig:
    """Arriving at so many requests per second, in the mean."""
    intervals: Any = workload.interval_generator_config
    shortened = _POISSON_MEAN_GAP if isinstance(intervals, PoissonRequestIntervalGeneratorConfig) else 1.0
    return dataclasses.replace(workload, interval_generator_config=dataclasses.replace(intervals, qps=rate * shortened))


def reseeded(workload: SyntheticRequestGeneratorConfig, seed: int, count: int) -> SyntheticRequestGeneratorConfig:
    """`count` of them, drawn from `seed`."""
    return dataclasses.replace(
        workload,
        seed=seed,
        num_requests=count,
        length_generator_config=dataclasses.replace(workload.length_generator_config, seed=seed),
    )
