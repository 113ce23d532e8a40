"""The times at which requests, or sessions, arrive by an interval generator."""

from __future__ import annotations

import numpy as np

from vidur.config import (
    ArrivingRequestGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    UniformRequestLengthGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator.random_streams import python_random
from vidur.request_generator.request_intervals import draw_intervals
from vidur.request_generator.request_table import FloatArray

MOST_REQUESTS = 100_000_000  # more do not fit in memory
LATEST_ARRIVAL = 1e12  # seconds; beyond, a double cannot resolve the time of an iteration

_RATED = (
    PoissonRequestIntervalGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
)


def draw_arrivals(config: ArrivingRequestGeneratorConfig) -> FloatArray:
    """Return the arrival times of `num_requests` requests, of those before `duration`, or of a whole arrival trace.

    Raises InputError if no or too many requests arrive, or an arrival trace ends too soon.
    """
    if config.duration is not None:
        return _arrivals_before(config, config.duration)
    return _first_arrivals(config, config.num_requests or MOST_REQUESTS)


def _first_arrivals(config: ArrivingRequestGeneratorConfig, count: int) -> FloatArray:
    """Return the arrival times of `count` requests, or of fewer from a trace if no number is configured."""
    if count > MOST_REQUESTS:
        raise InputError(f"{config.flag('num_requests')} must be at most {MOST_REQUESTS}, not {count}")
    arrived_at = arrival_times(config, count)
    if config.num_requests is not None and len(arrived_at) < count:
        raise InputError(
            f"{config.flag('num_requests')} is {count} and the arrival trace has {len(arrived_at)} in its window: "
            "ask for fewer requests or widen the window"
        )
    return arrived_at


def _arrivals_before(config: ArrivingRequestGeneratorConfig, duration: float) -> FloatArray:
    """Return the arrival times below `duration`, drawing ever more from the start until one exceeds it."""
    intervals = config.interval_generator_config
    attempt = float(MOST_REQUESTS)
    if isinstance(intervals, _RATED):
        attempt = 1.1 * duration * intervals.qps + 100
    while True:
        if attempt > 2 * MOST_REQUESTS:
            raise InputError(f"more than {MOST_REQUESTS} requests arrive in {config.flag('duration')} {duration:g}")
        arrived_at = arrival_times(config, int(attempt))
        if len(arrived_at) < int(attempt) or arrived_at[-1] >= duration:
            break
        attempt *= 2
    arrived_at = arrived_at[: np.searchsorted(arrived_at, duration, side="left")]
    if not len(arrived_at):
        raise InputError(f"no request arrives in {config.flag('duration')} {duration:g}: lengthen it or raise the rate")
    return arrived_at


def arrival_times(config: ArrivingRequestGeneratorConfig, count: int) -> FloatArray:
    """Return the first `count` arrival times, or fewer from a trace."""
    uniform = uniform_draws(config, count)[0]
    with np.errstate(over="ignore"):
        arrived_at = np.cumsum(draw_intervals(config.interval_generator_config, count, uniform, config.seed))
    if not arrived_at[-1] < LATEST_ARRIVAL:
        raise InputError(f"requests arrive later than {LATEST_ARRIVAL:g} s: raise the rate of the interval generator")
    return arrived_at


def uniform_draws(config: ArrivingRequestGeneratorConfig, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the draws of Poisson or swing intervals and of uniform lengths, alternating if both need any.

    Empty for a generator that uses none.
    """
    intervals = isinstance(
        config.interval_generator_config, (PoissonRequestIntervalGeneratorConfig, SwingRequestIntervalGeneratorConfig)
    )
    lengths = isinstance(config, SyntheticRequestGeneratorConfig) and isinstance(
        config.length_generator_config, UniformRequestLengthGeneratorConfig
    )
    draws = python_random(config.seed).random_sample((count if intervals or lengths else 0, intervals + lengths))
    return draws[:, :1].ravel() if intervals else np.empty(0), draws[:, -1:].ravel() if lengths else np.empty(0)
