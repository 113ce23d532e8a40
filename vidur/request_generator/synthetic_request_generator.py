"""Generate synthetic requests from an interval generator and a length generator."""

from __future__ import annotations

import numpy as np

from vidur.config import (
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    UniformRequestLengthGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator.random_streams import python_random
from vidur.request_generator.request_intervals import draw_intervals
from vidur.request_generator.request_lengths import describe_lengths, draw_lengths
from vidur.request_generator.request_table import FloatArray, RequestTable

MOST_REQUESTS = 100_000_000  # more do not fit in memory
LATEST_ARRIVAL = 1e12  # seconds; beyond, a double cannot resolve the time of an iteration

_RATED = (
    PoissonRequestIntervalGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
)


def synthesize_requests(config: SyntheticRequestGeneratorConfig) -> RequestTable:
    """Generate `num_requests` requests, those that arrive before `duration`, or all of an arrival trace.

    With the same seed, arrivals and lengths equal upstream's. Raises InputError if no or too many requests arrive, or
    an arrival trace ends too soon.
    """
    if config.duration is not None:
        arrived_at = _arrivals_before(config, config.duration)
    else:
        arrived_at = _arrivals(config, config.num_requests or MOST_REQUESTS)
    count = len(arrived_at)
    lengths = draw_lengths(config.length_generator_config, count, _uniform_draws(config, count)[1])
    intervals = config.interval_generator_config.get_type()
    source = f"synthetic: {count} requests, {intervals} arrivals, {describe_lengths(config.length_generator_config)}"
    source += f", seed {config.seed}" + (f"; {lengths.note}" if lengths.note else "")
    return RequestTable.of(arrived_at, lengths.num_prefill_tokens, lengths.num_decode_tokens, source)


def _arrivals(config: SyntheticRequestGeneratorConfig, count: int) -> FloatArray:
    """Return the arrival times of `count` requests, or of fewer from a trace if no number is configured."""
    if count > MOST_REQUESTS:
        raise InputError(f"{config.flag('num_requests')} must be at most {MOST_REQUESTS}, not {count}")
    arrived_at = _times(config, count)
    if config.num_requests is not None and len(arrived_at) < count:
        raise InputError(
            f"{config.flag('num_requests')} is {count} and the arrival trace has {len(arrived_at)} in its window: "
            "ask for fewer requests or widen the window"
        )
    return arrived_at


def _arrivals_before(config: SyntheticRequestGeneratorConfig, duration: float) -> FloatArray:
    """Return the arrival times below `duration`, drawing ever more from the start until one exceeds it."""
    intervals = config.interval_generator_config
    attempt = float(MOST_REQUESTS)
    if isinstance(intervals, _RATED):
        attempt = 1.1 * duration * intervals.qps + 100
    while True:
        if attempt > 2 * MOST_REQUESTS:
            raise InputError(f"more than {MOST_REQUESTS} requests arrive in {config.flag('duration')} {duration:g}")
        arrived_at = _times(config, int(attempt))
        if len(arrived_at) < int(attempt) or arrived_at[-1] >= duration:
            break
        attempt *= 2
    arrived_at = arrived_at[: np.searchsorted(arrived_at, duration, side="left")]
    if not len(arrived_at):
        raise InputError(f"no request arrives in {config.flag('duration')} {duration:g}: lengthen it or raise the rate")
    return arrived_at


def _times(config: SyntheticRequestGeneratorConfig, count: int) -> FloatArray:
    uniform = _uniform_draws(config, count)[0]
    with np.errstate(over="ignore"):
        arrived_at = np.cumsum(draw_intervals(config.interval_generator_config, count, uniform, config.seed))
    if not arrived_at[-1] < LATEST_ARRIVAL:
        raise InputError(f"requests arrive later than {LATEST_ARRIVAL:g} s: raise the rate of the interval generator")
    return arrived_at


def _uniform_draws(config: SyntheticRequestGeneratorConfig, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the draws of Poisson or swing intervals and of uniform lengths, alternating if both need any.

    Empty for a generator that uses none.
    """
    intervals = isinstance(
        config.interval_generator_config, (PoissonRequestIntervalGeneratorConfig, SwingRequestIntervalGeneratorConfig)
    )
    lengths = isinstance(config.length_generator_config, UniformRequestLengthGeneratorConfig)
    draws = python_random(config.seed).random_sample((count if intervals or lengths else 0, intervals + lengths))
    return draws[:, :1].ravel() if intervals else np.empty(0), draws[:, -1:].ravel() if lengths else np.empty(0)
