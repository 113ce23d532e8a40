"""Filling tables from some of their points."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vidur.execution_time_predictor.sampling import fill_curve, fill_surface, sample_indices


@given(length=st.integers(1, 200_000), dense=st.sampled_from([64, 1024]))
def test_samples_are_dense_then_two_percent_apart(length: int, dense: int) -> None:
    at = sample_indices(length, dense)
    assert at[0] == 0
    assert at[-1] == length - 1
    assert (np.diff(at) > 0).all()
    np.testing.assert_array_equal(at[: min(length, dense)], np.arange(min(length, dense)))
    beyond = at[dense - 1 :]
    assert (beyond[1:] <= beyond[:-1] * 1.02 + 1).all()


@given(rows=st.integers(1, 300), columns=st.integers(1, 300))
def test_what_is_bilinear_is_found_again(rows: int, columns: int) -> None:
    row_axis, column_axis = 64.0 * np.arange(rows), np.arange(columns, dtype=np.float64)
    surface = fill_surface(row_axis, column_axis, lambda row, column: 1.0 + row + 2.0 * column + row * column)
    expected = 1.0 + row_axis[:, None] + 2.0 * column_axis + row_axis[:, None] * column_axis
    np.testing.assert_allclose(surface, expected, rtol=1e-12)


def test_a_curve_is_exact_where_it_is_evaluated() -> None:
    axis = np.arange(40_000, dtype=np.float64)
    asked: list[int] = []
    curve = fill_curve(axis, lambda tokens: float(asked.append(tokens) or tokens % 7))
    np.testing.assert_array_equal(curve[asked], np.array(asked) % 7)
    assert 32768 in asked
    assert len(asked) < 17_000
