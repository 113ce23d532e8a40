"""The table of requests: sorted, stable, and valid or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.request_generator import RequestTable
from vidur.request_generator.content import Content, Turns


def table(arrived_at: list[float], prefill: list[int] | None = None, decode: list[int] | None = None) -> RequestTable:
    ones = [1] * len(arrived_at)
    return RequestTable.of(
        np.array(arrived_at, np.float64),
        np.array(prefill or ones, np.int64),
        np.array(decode or ones, np.int64),
        "test",
    )


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), max_size=30))
def test_rows_are_sorted_by_arrival_and_ties_keep_their_order(arrived_at: list[float]) -> None:
    requests = table(arrived_at, prefill=list(range(1, len(arrived_at) + 1)))
    expected = sorted(enumerate(arrived_at, 1), key=lambda pair: pair[1])
    assert list(zip(requests.num_prefill_tokens, requests.arrived_at, strict=True)) == expected


def test_every_column_moves_with_its_request() -> None:
    requests = RequestTable.of(
        np.array([2.0, 1.0]),
        np.array([10, 20]),
        np.array([11, 21]),
        "test",
        session_id=np.array([12, 22]),
        priority=np.array([13, 23]),
        content=Content.of_hash_ids([[14], [24, 26]], np.array([4, 5]), 4),
        turns=Turns.of_edges(np.array([1]), np.array([0]), np.array([0.5, 0.0])),
    )
    assert requests.num_decode_tokens.tolist() == [21, 11]
    assert requests.session_id.tolist() == [22, 12]
    assert requests.priority.tolist() == [23, 13]
    assert requests.content is not None and requests.turns is not None
    blocks = requests.content.blocks(2)
    assert [blocks.chain(i).tolist() for i in range(2)] == [[48, 49], [28, 29]]
    assert (requests.turns.offsets.tolist(), requests.turns.children.tolist()) == ([0, 1, 1], [1])
    assert requests.turns.think.tolist() == [0.0, 0.5]
    assert len(requests) == 2


def test_without_sessions_and_priorities() -> None:
    requests = table([0.0, 1.0])
    assert requests.session_id.tolist() == [-1, -1]
    assert requests.priority.tolist() == [0, 0]
    assert requests.content is None and requests.turns is None


@pytest.mark.parametrize(
    ("arrived_at", "prefill", "decode"),
    [
        ([float("nan")], [1], [1]),
        ([float("inf")], [1], [1]),
        ([-1.0], [1], [1]),
        ([0.0], [0], [1]),
        ([0.0], [1], [-5]),
        ([0.0], [1, 2], [1]),
    ],
)
def test_what_no_request_can_be_is_refused(arrived_at: list[float], prefill: list[int], decode: list[int]) -> None:
    with pytest.raises(AssertionError):
        table(arrived_at, prefill, decode)


def test_an_unsorted_table_is_not_valid() -> None:
    ones = np.ones(2, np.int64)
    with pytest.raises(AssertionError):
        RequestTable(np.array([1.0, 0.0]), ones, ones, ones, ones, "test").validate()
