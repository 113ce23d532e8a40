"""When synthetic requests arrive."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import (
    BaseRequestIntervalGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    StaticRequestIntervalGeneratorConfig,
    SwingRequestIntervalGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    TraceRequestIntervalGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator import generate_requests
from vidur.request_generator.random_streams import python_random
from vidur.request_generator.request_intervals import solve_kepler
from vidur.request_generator.request_table import FloatArray


def arrivals(
    intervals: BaseRequestIntervalGeneratorConfig,
    num_requests: int | None = None,
    duration: float | None = None,
    seed: int = 42,
) -> FloatArray:
    config = SyntheticRequestGeneratorConfig(
        seed=seed, interval_generator_config=intervals, num_requests=num_requests, duration=duration
    )
    return generate_requests(config).arrived_at


def write_invocations(path: Path, times: list[str]) -> str:
    path.write_text("app,arrival_time\n" + "".join(f"a,{time}\n" for time in times))
    return str(path)


@given(st.integers(0, 2**70))
def test_the_stream_is_python_s_own(seed: int) -> None:
    reference = random.Random(seed)
    assert python_random(seed).random_sample(700).tolist() == [reference.random() for _ in range(700)]


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1000))
def test_poisson_is_the_scalar_formula(seed: int, qps: float) -> None:
    stream, now, expected = random.Random(seed), 0.0, []
    for _ in range(50):
        now += min(-math.log(1.0 - stream.random()) / qps, (1.0 / qps) * 3.0)
        expected.append(now)
    assert arrivals(PoissonRequestIntervalGeneratorConfig(qps=qps), 50, seed=seed).tolist() == expected


def test_poisson_has_its_rate_and_no_long_gap() -> None:
    gaps = np.diff(arrivals(PoissonRequestIntervalGeneratorConfig(qps=4.0), 200_000))
    # Exponential gaps cut at three times their mean m have the mean m (1 - exp(-3)).
    assert gaps.mean() == pytest.approx(0.25 * (1 - math.exp(-3)), rel=0.01)
    assert gaps.max() <= 0.75 + 1e-9


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gamma_has_its_rate_and_variation(cv: float) -> None:
    gaps = np.diff(arrivals(GammaRequestIntervalGeneratorConfig(qps=2.0, cv=cv), 400_000))
    assert gaps.mean() == pytest.approx(0.5, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02)


def expected_before(swing: SwingRequestIntervalGeneratorConfig, time: FloatArray) -> FloatArray:
    """The integral of the rate."""
    turn, begin = 2 * math.pi / swing.period, 2 * math.pi * swing.phase
    swung = (np.cos(turn * time + begin) - math.cos(begin)) * swing.amplitude / turn
    return np.asarray(swing.qps * (time - swung))


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 500),
    st.sampled_from([0.0, 0.3, 0.9, 0.999999]),
    st.floats(0.1, 1e5),
    st.floats(0, 0.999),
)
def test_swing_inverts_its_cumulative_rate(
    seed: int, qps: float, amplitude: float, period: float, phase: float
) -> None:
    swing = SwingRequestIntervalGeneratorConfig(qps=qps, amplitude=amplitude, period=period, phase=phase)
    times = arrivals(swing, 300, seed=seed)
    assert (np.diff(times) >= 0).all()
    stream = random.Random(seed)
    steady = np.cumsum([-math.log(1.0 - stream.random()) for _ in range(300)])
    # Where the rate is all but 0 the cumulative rate says little of the time, so it is compared, not the time. A time
    # is known to some 1e-15 of the period.
    assert expected_before(swing, times) == pytest.approx(steady, rel=1e-9, abs=1e-9 + 1e-14 * qps * period)


@given(st.floats(-100, 1e6), st.floats(0, 0.999999999))
def test_keplers_equation_is_solved(mean: float, eccentricity: float) -> None:
    (x,) = solve_kepler(np.array([mean]), eccentricity)
    assert x - eccentricity * math.sin(x) == pytest.approx(mean, rel=1e-14, abs=1e-13)


def test_swing_has_its_counts_in_every_part_of_the_period() -> None:
    swing = SwingRequestIntervalGeneratorConfig(qps=20.0, amplitude=0.8, period=100.0, phase=0.75)
    times = arrivals(swing, duration=20_000.0)
    assert len(times) == pytest.approx(20.0 * 20_000, abs=4 * math.sqrt(20.0 * 20_000))
    edges = np.linspace(0.0, 100.0, 21)
    counts, _ = np.histogram(times % 100.0, edges)
    expected = 200 * np.diff(expected_before(swing, edges))
    # Poisson counts: each within 4.5 standard deviations, and in all as much off as chi-squared says.
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()
    assert 5 < ((counts - expected) ** 2 / expected).sum() < 45
    # From a fifth of the mean to nine times that.
    assert counts[10] / counts[0] == pytest.approx(expected[10] / expected[0], rel=0.1)
    assert counts.argmin() in (0, 19) and counts.argmax() in (9, 10)


def test_swing_without_amplitude_is_a_poisson_process_with_nothing_cut() -> None:
    gaps = np.diff(arrivals(SwingRequestIntervalGeneratorConfig(qps=4.0, amplitude=0.0), 200_000))
    assert gaps.mean() == pytest.approx(0.25, rel=0.01)
    assert gaps.std() == pytest.approx(0.25, rel=0.01)
    assert (gaps > 0.75).mean() == pytest.approx(math.exp(-3), rel=0.05)


def test_a_swing_out_of_bounds_is_refused() -> None:
    with pytest.raises(InputError, match="swing_request_interval_generator_config_amplitude must be below 1, not 1"):
        SwingRequestIntervalGeneratorConfig(amplitude=1.0)
    with pytest.raises(InputError, match="period must be above 0"):
        SwingRequestIntervalGeneratorConfig(period=0.0)
    with pytest.raises(InputError, match="arrive later than"):
        arrivals(SwingRequestIntervalGeneratorConfig(qps=1e-12), 500)


def test_static_requests_arrive_at_once() -> None:
    assert arrivals(StaticRequestIntervalGeneratorConfig(), 5).tolist() == [0.0] * 5


@given(st.floats(0.01, 50), st.floats(0.1, 100), st.sampled_from(["poisson", "gamma", "swing"]))
def test_a_duration_takes_the_arrivals_before_it(duration: float, qps: float, kind: str) -> None:
    intervals: BaseRequestIntervalGeneratorConfig = {
        "poisson": PoissonRequestIntervalGeneratorConfig(qps=qps),
        "gamma": GammaRequestIntervalGeneratorConfig(qps=qps, cv=5.0),
        "swing": SwingRequestIntervalGeneratorConfig(qps=qps, amplitude=0.9, period=30.0, phase=0.5),
    }[kind]
    many = arrivals(intervals, 20_000)
    expected = many[many < duration]
    if len(expected) == len(many):
        return
    if len(expected):
        assert arrivals(intervals, duration=duration).tolist() == expected.tolist()
    else:
        with pytest.raises(InputError, match="no request arrives"):
            arrivals(intervals, duration=duration)


def test_trace_arrivals_are_whole_seconds_after_the_first_in_the_window(tmp_path: Path) -> None:
    times = ["1970-01-04 11:00:00", "1970-01-04 12:00:00", "1970-01-04 12:00:01.5", "1970-01-04 12:00:04.4"]
    times += ["1970-01-04 12:00:03.0", "1970-01-04 12:00:10", "1970-01-04 15:00:00"]
    file = write_invocations(tmp_path / "invocations.csv", times)
    whole = arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file))
    assert whole.tolist() == [1.0, 2.0, 8.0]  # after 12:00:01.5: the ends of the window are outside it
    scaled = arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file, time_scale_factor=0.5), 2)
    assert scaled.tolist() == [0.5, 1.0]
    assert arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file), duration=2.0).tolist() == [1.0]


def test_an_arrival_trace_that_is_too_short_is_refused(tmp_path: Path) -> None:
    times = [f"1970-01-04 13:00:{second:02}" for second in range(9)]
    file = write_invocations(tmp_path / "invocations.csv", times)
    with pytest.raises(InputError, match="num_requests is 9 and the arrival trace has 8 in its window"):
        arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file), 9)
    with pytest.raises(InputError, match=r"has 1 arrivals between --trace_request_interval_generator_config_start"):
        arrivals(
            TraceRequestIntervalGeneratorConfig(
                trace_file=file, start_time="1970-01-04 13:00:07", end_time="1970-01-05"
            )
        )


def test_malformed_arrival_traces(tmp_path: Path) -> None:
    file = write_invocations(tmp_path / "invocations.csv", ["1970-01-04 13:00:00", "1970-01-04 25:00:00"])
    with pytest.raises(InputError, match=r"invocations.csv, row 3, column arrival_time: '1970-01-04 25:00:00' is not"):
        arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file), 1)
    with pytest.raises(InputError, match="--trace_request_interval_generator_config_end_time: 'noon' is not a time"):
        write_invocations(tmp_path / "invocations.csv", ["1970-01-04 13:00:00"])
        arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file, end_time="noon"), 1)
    (tmp_path / "invocations.csv").write_text("arrival_tim\n1970-01-04 13:00:00\n")
    with pytest.raises(InputError, match=r"row 1: column 'arrival_time' is missing: is it 'arrival_tim'\?"):
        arrivals(TraceRequestIntervalGeneratorConfig(trace_file=file), 1)


def test_rates_beyond_doubles_are_refused() -> None:
    with pytest.raises(InputError, match="qps must be at least"):
        arrivals(PoissonRequestIntervalGeneratorConfig(qps=1e-300), 5)
    with pytest.raises(InputError, match="arrive later than"):
        arrivals(PoissonRequestIntervalGeneratorConfig(qps=1e-12), 500)
    for cv in (1e-200, 1e200):
        with pytest.raises(InputError, match="cv must be from"):
            arrivals(GammaRequestIntervalGeneratorConfig(cv=cv), 5)


def test_too_many_requests_are_refused() -> None:
    with pytest.raises(InputError, match="num_requests must be at most 100000000, not 1000000000000"):
        arrivals(PoissonRequestIntervalGeneratorConfig(), 10**12)
    with pytest.raises(InputError, match=r"more than 100000000 requests arrive in .*duration 1e\+12"):
        arrivals(PoissonRequestIntervalGeneratorConfig(), duration=1e12)
