"""scripts/compare_commits.py: equal bits are equal, and anything else is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compare_commits import Case, Checkout, column_difference, differences, further_cases, suite_cases

ROOT = Path(__file__).resolve().parent.parent


def test_equal_bits_are_equal() -> None:
    column = np.array([1.0, np.nan, -0.0])
    assert column_difference(column, column.copy()) is None
    assert differences({"requests": {"a": column}}, {"requests": {"a": column.copy()}}) == []


def test_the_first_and_the_greatest_difference_are_named() -> None:
    line = column_difference(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 7.0]))
    assert line == "2 of 3 rows, first row 1: 2.0 here, 2.5 there; greatest difference 4"


@pytest.mark.parametrize("other", [np.array([0.0]), np.array([1]), np.array([1.0, 1.0]), np.array([np.nan])])
def test_sign_type_length_and_what_never_happened_count(other: np.ndarray) -> None:
    assert column_difference(np.array([-0.0] if other.tolist() == [0.0] else [1.0]), other) is not None


def test_a_column_of_one_side_is_a_difference() -> None:
    column = np.zeros(1)
    assert differences({"requests": {"a": column}}, {"requests": {}}) == ["requests.a: only on this side"]
    assert differences({}, {"requests": {"a": column}}) == ["requests.a: only on the other side"]


def test_the_suite_is_simulated_at_every_load_under_every_router() -> None:
    cases = list(suite_cases("suite", "alike", 40, 2))
    assert len({case.scenario for case in cases}) == 2
    assert len(cases) == 2 * 2 * len({case.router for case in cases}) and {"ppo", "lor"} <= {c.router for c in cases}


def test_a_checkout_simulates_and_seeds_differ() -> None:
    flags = ["--synthetic_request_generator_config_num_requests", "40", "--synthetic_request_generator_config_seed"]
    with Checkout(ROOT) as ours, Checkout(ROOT) as theirs:
        tables = []
        for checkout, seed in ((ours, "1"), (theirs, "1"), (theirs, "2")):
            checkout.begin(Case("two", "round_robin", [*flags, seed], from_python=True))
            tables.append(checkout.result())
    assert differences(tables[0], tables[1]) == []
    lines = differences(tables[0], tables[2])
    assert any(line.startswith("requests.arrived_at") for line in lines)
    assert any(line.startswith("observations.digest") for line in lines)


def test_further_cases_are_read() -> None:
    from vidur.config import SimulationConfig

    cases = list(further_cases(40, 1))
    assert len(cases) == len({(*case.flags, case.from_python) for case in cases}) > 250
    for case in cases[::7]:
        SimulationConfig.from_cli(list(case.flags))
