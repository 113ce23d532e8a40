"""Draw the arrivals of synthetic requests; one function for each interval generator."""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from vidur.config import (
    BaseRequestIntervalGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    StaticRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
    TraceRequestIntervalGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator.random_streams import numpy_random
from vidur.request_generator.request_table import FloatArray
from vidur.request_generator.timestamps import parse_instant
from vidur.request_generator.trace_file import read_csv_columns

NANOSECONDS = 1_000_000_000
LEAST_RATE = 1e-12  # requests per second
LEAST_CV = 1e-6  # and 1 / LEAST_CV at most, so that the gamma distribution's shape stays in range


@singledispatch
def draw_intervals(
    config: BaseRequestIntervalGeneratorConfig, count: int, uniform: FloatArray, seed: int
) -> FloatArray:
    """Return the seconds between successive arrivals of `count` requests, or of fewer if a trace ends.

    uniform: draws in [0, 1), one per request, for poisson and swing. seed: the request generator's; upstream seeds
    every stream with it and ignores the interval generator's own seed.
    """
    raise AssertionError(type(config))


@draw_intervals.register
def _static(config: StaticRequestIntervalGeneratorConfig, count: int, uniform: FloatArray, seed: int) -> FloatArray:
    return np.zeros(count)


@draw_intervals.register
def _poisson(config: PoissonRequestIntervalGeneratorConfig, count: int, uniform: FloatArray, seed: int) -> FloatArray:
    _check_rate(config)
    # Upstream uses math.log, which differs from numpy.log in the last bit for one value in 300.
    logarithms = np.fromiter(map(math.log, (1.0 - uniform).tolist()), np.float64, count)
    return np.minimum(-logarithms / config.qps, 1.0 / config.qps * 3.0)


@draw_intervals.register
def _gamma(config: GammaRequestIntervalGeneratorConfig, count: int, uniform: FloatArray, seed: int) -> FloatArray:
    _check_rate(config)
    if not LEAST_CV <= config.cv <= 1 / LEAST_CV:
        raise InputError(f"{config.flag('cv')} must be from {LEAST_CV:g} to {1 / LEAST_CV:g}, not {config.cv:g}")
    shape = 1.0 / (config.cv**2)
    scale = 1.0 / (config.qps * shape)
    return np.asarray(numpy_random(seed).standard_gamma(shape, count) * scale)


@draw_intervals.register
def _swing(config: SwingRequestIntervalGeneratorConfig, count: int, uniform: FloatArray, seed: int) -> FloatArray:
    """Map a Poisson process of rate 1 through the inverse of the cumulative rate (Cinlar, 1975).

    The requests expected before t are qps (t - b (cos(t / b + a) - cos(a)) amplitude) with b = period / (2 pi) and
    a = 2 pi phase. In the angle t / b + a + pi / 2 that is Kepler's equation.
    """
    _check_rate(config)
    turn = 2.0 * math.pi
    begin = turn * config.phase
    expected = np.cumsum(-np.log1p(-uniform))
    mean = expected * (turn / (config.qps * config.period))
    offset = begin + math.pi / 2.0
    angle = solve_kepler(mean + (offset - config.amplitude * math.cos(begin)), config.amplitude)
    # Rounding may swap two nearly simultaneous requests.
    times = np.maximum.accumulate(np.maximum((angle - offset) * (config.period / turn), 0.0))
    return np.diff(times, prepend=0.0)


def solve_kepler(mean: FloatArray, eccentricity: float) -> FloatArray:
    """Solve x - eccentricity sin(x) = mean for x, with an eccentricity in [0, 1).

    Newton's method within one turn, which always converges from pi (Charles and Tatum, Celestial Mechanics 69, 1998).
    """
    turns = np.floor(mean / (2.0 * math.pi)) * (2.0 * math.pi)
    rest = mean - turns
    x = np.full(len(mean), math.pi)
    # Stop each value separately, so that it does not depend on the others.
    left = np.arange(len(mean))
    for _ in range(64):
        guess = x[left]
        step = (guess - eccentricity * np.sin(guess) - rest[left]) / (1.0 - eccentricity * np.cos(guess))
        x[left] = guess - step
        left = left[np.abs(step) > 1e-14]
        if not len(left):
            break
    return np.asarray(turns + x)


@draw_intervals.register
def _trace(config: TraceRequestIntervalGeneratorConfig, count: int, uniform: FloatArray, seed: int) -> FloatArray:
    rows = read_csv_columns(config.trace_file, config.flag("trace_file"), ("arrival_time",))
    instants = np.sort(rows.instants("arrival_time"))
    start = _instant(config.start_time, config.flag("start_time"))
    end = _instant(config.end_time, config.flag("end_time"))
    window = instants[(instants > start) & (instants < end)]
    if len(window) < 2:
        raise InputError(
            f"{config.trace_file} has {len(window)} arrivals between {config.flag('start_time')} {config.start_time} "
            f"and {config.flag('end_time')} {config.end_time}: at least two are needed"
        )
    seconds = (window - window[0]) // NANOSECONDS * config.time_scale_factor
    return np.asarray(np.diff(seconds)[:count])


def _check_rate(
    config: PoissonRequestIntervalGeneratorConfig
    | GammaRequestIntervalGeneratorConfig
    | SwingRequestIntervalGeneratorConfig,
) -> None:
    if config.qps < LEAST_RATE:
        raise InputError(f"{config.flag('qps')} must be at least {LEAST_RATE:g}, not {config.qps:g}")


def _instant(text: str, flag: str) -> int:
    try:
        return parse_instant(text)
    except ValueError:
        raise InputError(f"{flag}: '{text}' is not a time like 1970-01-04 12:00:00") from None
