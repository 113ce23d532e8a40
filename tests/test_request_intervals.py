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
    SyntheticRequestGeneratorConfig,
    TraceRequestIntervalGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator import generate_requests
from vidur.request_generator.random_streams import python_random
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


def test_static_requests_arrive_at_once() -> None:
    assert arrivals(StaticRequestIntervalGeneratorConfig(), 5).tolist() == [0.0] * 5


@given(st.floats(0.01, 50), st.floats(0.1, 100), st.booleans())
def test_a_duration_takes_the_arrivals_before_it(duration: float, qps: float, bursty: bool) -> None:
    intervals: BaseRequestIntervalGeneratorConfig = PoissonRequestIntervalGeneratorConfig(qps=qps)
    if bursty:
        intervals = GammaRequestIntervalGeneratorConfig(qps=qps, cv=5.0)
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
