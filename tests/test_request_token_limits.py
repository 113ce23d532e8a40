"""Requests made to fit the longest allowed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.errors import InputError
from vidur.request_generator.token_limits import check_max_tokens, cut_in_proportion, cut_prompts, whole_tokens

tokens = st.integers(0, 2**50)
limits = st.integers(2, 10_000)


def one(value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([value], np.int64)


@given(tokens, tokens, limits)
def test_cut_prompts(prefill: int, decode: int, limit: int) -> None:
    new_prefill, new_decode, note = cut_prompts(one(prefill), one(decode), limit)
    p, d = max(prefill, 1), max(decode, 1)
    expected = (p, d) if p + d <= limit else (limit - d, d) if d < limit else (1, limit - 1)
    assert (new_prefill[0], new_decode[0]) == expected
    assert note == (f"1 cut to {limit} tokens" if p + d > limit else "")


@given(tokens, tokens, limits)
def test_cut_in_proportion(prefill: int, decode: int, limit: int) -> None:
    new_prefill, new_decode, note = cut_in_proportion(one(prefill), one(decode), limit)
    total = prefill + decode
    assert new_prefill[0] >= 1 and new_decode[0] >= 1
    assert new_prefill[0] + new_decode[0] <= limit
    assert bool(note) == (total > limit)
    if total <= limit and prefill and decode:
        assert (new_prefill[0], new_decode[0]) == (prefill, decode)
    elif prefill and decode and total < 2**30:
        excess = total - limit
        left = prefill - math.ceil(excess * (prefill / total))
        assert new_prefill[0] == min(max(left, 1), limit - 1)


@given(st.floats(0, 1e12), st.floats(0, 1e300, exclude_min=True))
def test_whole_tokens(value: float, factor: float) -> None:
    assert whole_tokens(np.array([value]), factor)[0] == int(min(value * factor, 2.0**53))


def test_room_for_one_token_only() -> None:
    with pytest.raises(InputError, match="--flag must be at least 2"):
        check_max_tokens(1, "--flag")
