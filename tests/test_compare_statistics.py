"""The statistics of comparisons, against closed forms, and how often their intervals hold the truth."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.compare.statistics import LOSS, TIE, WIN, estimate, holm, paired_difference, t_quantile

# Of printed tables.
TABLE = {(0.975, 1): 12.706, (0.975, 2): 4.303, (0.975, 3): 3.182, (0.975, 4): 2.776, (0.975, 9): 2.262,
         (0.975, 10): 2.228, (0.975, 29): 2.045, (0.95, 5): 2.015, (0.995, 7): 3.499, (0.9, 12): 1.356}  # fmt: skip


@pytest.mark.parametrize(("probability", "degrees"), TABLE)
def test_quantiles_of_student_are_those_of_the_tables(probability: float, degrees: int) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(TABLE[probability, degrees], abs=5e-4)


@given(st.floats(0.51, 0.999))
def test_quantiles_of_one_and_two_degrees_have_closed_forms(probability: float) -> None:
    assert t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-9)
    two = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    assert t_quantile(probability, 2) == pytest.approx(two, rel=1e-9)


@given(st.floats(0.55, 0.999), st.integers(1, 60))
def test_more_degrees_of_freedom_narrow_the_tails(probability: float, degrees: int) -> None:
    assert t_quantile(probability, degrees + 1) < t_quantile(probability, degrees)


@pytest.mark.parametrize(("probability", "degrees"), [(0.5, 3), (1.0, 3), (0.975, 0)])
def test_no_quantile(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, degrees)


def test_estimate_by_hand() -> None:
    found = estimate(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mean == 2.5
    # s = sqrt(5 / 3), n = 4, t = 3.1824
    assert found.half == pytest.approx(3.18245 * math.sqrt(5 / 3) / 2, rel=1e-5)
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_paired_difference_by_hand() -> None:
    ours, theirs = np.array([9.0, 11.0, 10.0]), np.array([10.0, 13.0, 13.0])
    found = paired_difference(ours, theirs)
    # r = 30 / 36; the residuals 9 - r 10, 11 - r 13, 10 - r 13 are 2/3, 1/6, -5/6 and their squares sum to 42/36.
    half = 4.302653 * math.sqrt(42 / 36 / 2) / math.sqrt(3) / 12
    assert found.mean == pytest.approx(100 * (30 / 36 - 1))
    assert found.half == pytest.approx(100 * half, rel=1e-6)
    assert found.verdict == WIN
    assert str(found) == f"-16.7 ± {100 * half:.1f} %"


def test_what_scales_with_the_baseline_has_no_width() -> None:
    theirs = np.array([1.0, 4.0, 16.0, 64.0])
    found = paired_difference(0.9 * theirs, theirs)
    assert found.mean == pytest.approx(-10.0)
    assert found.half == pytest.approx(0.0, abs=1e-9)
    assert found.verdict == WIN
    assert paired_difference(0.9 * theirs, theirs, higher_is_better=True).verdict == LOSS


def test_equal_routers_tie() -> None:
    values = np.array([0.3, 0.7, 0.1])
    found = paired_difference(values, values)
    assert (found.mean, found.half, found.verdict) == (0.0, 0.0, TIE)


def test_a_baseline_of_zero_leaves_the_unit() -> None:
    found = paired_difference(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    assert not found.relative
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert str(found) == "+2 ± 2.5"
    assert paired_difference(np.zeros(3), np.zeros(3)).verdict == TIE


@pytest.mark.parametrize("factor", [1.0, 1.0 + 2**-52, 1.0 - 2**-50])
@pytest.mark.parametrize("count", [2, 4, 9])
def test_rounding_is_no_difference(factor: float, count: int) -> None:
    theirs = np.linspace(0.1, 7.3, count)
    found = paired_difference(factor * theirs, theirs, bootstrap=True)
    assert (found.mean, found.half, found.verdict, found.p_value) == (0.0, 0.0, TIE, 1.0)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_same_difference_at_every_seed_is_sure(count: int) -> None:
    theirs = np.linspace(0.1, 7.3, count)
    found = paired_difference(1.1 * theirs, theirs, bootstrap=True)
    assert found.mean == pytest.approx(10.0)
    assert (found.half, found.verdict, found.p_value) == (0.0, LOSS, 0.0)


values = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=2, max_size=12)


@given(values, st.floats(0.01, 100))
def test_the_unit_does_not_matter(pairs: list[tuple[float, float]], factor: float) -> None:
    ours, theirs = np.array(pairs).T
    one, other = paired_difference(ours, theirs), paired_difference(factor * ours, factor * theirs)
    assert other.mean == pytest.approx(one.mean, abs=1e-9)
    assert other.half == pytest.approx(one.half, abs=1e-9)


@given(values)
def test_better_for_one_metric_is_worse_for_its_opposite(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    flipped = {WIN: LOSS, LOSS: WIN, TIE: TIE}
    assert paired_difference(ours, theirs, True).verdict == flipped[paired_difference(ours, theirs).verdict]


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(2000):
        level = rng.uniform(1.0, 3.0, 10)
        found = paired_difference(level * rng.normal(0.95, 0.03, 10), level * rng.normal(1.0, 0.03, 10))
        held += found.low <= -5.0 <= found.high
    assert 0.93 <= held / 2000 <= 0.97


# The bootstrap.


def skewed(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Values whose ratio has an exponential part; the ratio of their means is 0.95."""
    level = np.exp(rng.normal(0.0, 0.2, count))
    return level * (0.85 + rng.exponential(0.1, count)), level


def coverage(count: int, bootstrap: bool) -> float:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(600):
        found = paired_difference(*skewed(rng, count), bootstrap=bootstrap)
        held += found.low <= -5.0 <= found.high
    return held / 600


def test_bootstrap_intervals_hold_the_truth_where_students_do_not() -> None:
    # 1.96 standard errors of a coverage of 0.95 over 600 trials are 0.017.
    assert coverage(5, bootstrap=False) < 0.905
    assert coverage(5, bootstrap=True) > 0.925


@pytest.mark.parametrize("count", [4, 5, 8])
def test_bootstrap_intervals_of_normal_values_are_not_too_narrow(count: int) -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(600):
        level = rng.uniform(1.0, 3.0, count)
        ours, theirs = level * rng.normal(0.95, 0.03, count), level * rng.normal(1.0, 0.03, count)
        found = paired_difference(ours, theirs, bootstrap=True)
        held += found.low <= -5.0 <= found.high
    assert held / 600 >= 0.94


def test_the_bootstrap_by_hand() -> None:
    # |t| of all 256 resamples of four differences from a baseline of 0, in plain Python.
    differences = [1.0, 2.0, 4.0, 8.0]
    t = []
    for rows in itertools.product(range(4), repeat=4):
        drawn = [differences[row] for row in rows]
        spread = statistics.stdev(drawn)
        deviation = abs(statistics.mean(drawn) - 3.75)
        t.append(deviation / (spread / 2) if spread else math.inf)
    expected = sorted(t)[math.ceil(0.95 * 256) - 1] * statistics.stdev(differences) / 2
    found = paired_difference(np.array(differences), np.zeros(4), bootstrap=True)
    assert found.half == pytest.approx(expected)
    assert found.mean == 3.75


def test_a_baseline_that_is_mostly_0_has_no_bound() -> None:
    found = paired_difference(np.array([1.0, 0.0, 0.0, 0.0, 0.0]), np.array([24.0, 0.0, 0.0, 0.0, 0.0]), bootstrap=True)
    assert str(found) == "-95.8 %, without bound"
    assert (found.verdict, found.p_value) == (TIE, 1.0)


def test_two_seeds_have_students_interval() -> None:
    ours, theirs = np.array([9.0, 11.0]), np.array([10.0, 13.0])
    assert paired_difference(ours, theirs, bootstrap=True) == paired_difference(ours, theirs)


@given(values, st.booleans())
def test_p_values_agree_with_intervals(pairs: list[tuple[float, float]], bootstrap: bool) -> None:
    ours, theirs = np.array(pairs).T
    found = paired_difference(ours, theirs, bootstrap=bootstrap)
    assert 0.0 <= found.p_value <= 1.0
    if abs(found.p_value - 0.05) > 1e-6:
        assert (found.p_value < 0.05) == (found.verdict != TIE)


def test_the_p_value_of_three_values_has_a_closed_form() -> None:
    # t = 2 / sqrt(1 / 3), two degrees of freedom: p = 1 - t / sqrt(2 + t^2).
    found = paired_difference(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    t = 2.0 * math.sqrt(3.0)
    assert found.p_value == pytest.approx(1.0 - t / math.sqrt(2.0 + t**2))


# Many comparisons.


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_between_none_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for one, other in zip(p_values, adjusted, strict=True):
        assert one <= other <= min(1.0, len(p_values) * one) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(adjusted[low] <= adjusted[high] for low, high in itertools.pairwise(order))


def test_one_false_rejection_in_twenty_families() -> None:
    rng = np.random.default_rng(3)
    families = 0
    for _ in range(300):
        theirs = rng.uniform(1.0, 2.0, 6)
        found = [paired_difference(theirs * rng.normal(1.0, 0.05, 6), theirs, bootstrap=True) for _ in range(8)]
        families += min(holm([one.p_value for one in found])) < 0.05
    assert families / 300 < 0.08
