"""Synthetic requests at another rate, or of another seed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from vidur.config import (
    PoissonRequestIntervalGeneratorConfig,
    SimulationConfig,
    SyntheticRequestGeneratorConfig,
)
from vidur.errors import InputError

# Poisson gaps are cut at three times the mean of exponential ones, which shortens them to this.
_POISSON_MEAN_GAP = 1.0 - math.exp(-3.0)


def has_rate(workload: object) -> bool:
    """Whether they are synthetic requests whose intervals have a rate that can be set."""
    return isinstance(workload, SyntheticRequestGeneratorConfig) and hasattr(workload.interval_generator_config, "qps")


def require_rate(config: SimulationConfig) -> None:
    """Raise InputError unless the configuration's requests arrive at a rate that can be set."""
    if not has_rate(config.request_generator_config):
        raise InputError("synthetic requests are needed whose intervals have a rate, as poisson")


def rate_of(workload: SyntheticRequestGeneratorConfig) -> float:
    """Requests per second, in the mean: the inverse of `with_rate`."""
    intervals: Any = workload.interval_generator_config
    return float(intervals.qps) / _shortened(workload)


def _shortened(workload: SyntheticRequestGeneratorConfig) -> float:
    """The mean gap over the inverse of the rate that is configured."""
    poisson = isinstance(workload.interval_generator_config, PoissonRequestIntervalGeneratorConfig)
    return _POISSON_MEAN_GAP if poisson else 1.0


def with_rate(workload: SyntheticRequestGeneratorConfig, rate: float) -> SyntheticRequestGeneratorConfig:
    """Arriving at so many requests per second, in the mean."""
    intervals: Any = workload.interval_generator_config
    gaps = dataclasses.replace(intervals, qps=rate * _shortened(workload))
    return dataclasses.replace(workload, interval_generator_config=gaps)


def reseeded(workload: SyntheticRequestGeneratorConfig, seed: int, count: int) -> SyntheticRequestGeneratorConfig:
    """`count` of them, drawn from `seed`."""
    return dataclasses.replace(
        workload,
        seed=seed,
        num_requests=count,
        length_generator_config=dataclasses.replace(workload.length_generator_config, seed=seed),
    )
