"""Change the rate or the seed of synthetic requests."""

from __future__ import annotations

import dataclasses
from typing import Any

from vidur.config import ArrivingRequestGeneratorConfig, SimulationConfig, SyntheticRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator import generate_requests


def has_rate(workload: object) -> bool:
    """Whether these are generated requests or sessions with a rate that can be set."""
    return isinstance(workload, ArrivingRequestGeneratorConfig) and hasattr(workload.interval_generator_config, "qps")


def require_rate(config: SimulationConfig) -> None:
    """Raise InputError unless the configuration's requests arrive at a rate that can be set."""
    if not has_rate(config.request_generator_config):
        raise InputError("the requests must be generated, with intervals that have a rate, as poisson")


def caches_prefixes(config: SimulationConfig) -> bool:
    """Whether any replica caches prefixes of the configuration's requests."""
    groups = config.cluster_config.groups
    if not any(getattr(group.replica_scheduler_config, "enable_prefix_caching", False) for group in groups):
        return False
    return generate_requests(config.request_generator_config).content is not None


def rate_of(workload: ArrivingRequestGeneratorConfig) -> float:
    """Return the mean requests, or sessions, per second: the inverse of `with_rate`."""
    intervals: Any = workload.interval_generator_config
    return float(intervals.qps / intervals.mean_gap)


def with_rate(workload: ArrivingRequestGeneratorConfig, rate: float) -> ArrivingRequestGeneratorConfig:
    """Return the workload at a mean of `rate` requests, or sessions, per second."""
    intervals: Any = workload.interval_generator_config
    gaps = dataclasses.replace(intervals, qps=rate * intervals.mean_gap)
    return dataclasses.replace(workload, interval_generator_config=gaps)


def reseeded(workload: ArrivingRequestGeneratorConfig, seed: int, count: int) -> ArrivingRequestGeneratorConfig:
    """Return the workload with `count` requests drawn from `seed`."""
    changed = dataclasses.replace(workload, seed=seed, num_requests=count)
    if isinstance(changed, SyntheticRequestGeneratorConfig):
        lengths = dataclasses.replace(changed.length_generator_config, seed=seed)
        return dataclasses.replace(changed, length_generator_config=lengths)
    return changed
