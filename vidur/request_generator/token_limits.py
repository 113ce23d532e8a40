"""Fit requests to their limits: at least one prompt and one output token, at most max_tokens together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vidur.errors import InputError
from vidur.request_generator.request_table import FloatArray, IntArray

MOST_TOKENS = 2.0**53  # beyond, a double does not hold every integer


class Lengths(NamedTuple):
    """Prompt and output tokens of each request, and a note on how they were changed ('' if not)."""

    num_prefill_tokens: IntArray
    num_decode_tokens: IntArray
    note: str = ""


def whole_tokens(values: FloatArray, factor: float = 1.0) -> IntArray:
    """Return `values * factor`, truncated to integers."""
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(values * factor, MOST_TOKENS).astype(np.int64))


def cut_prompts(prefill: IntArray, decode: IntArray, max_tokens: int) -> Lengths:
    """Shorten the prompts of requests longer than `max_tokens`, and the output only if one prompt token is too many."""
    prefill, decode = np.maximum(prefill, 1), np.maximum(decode, 1)
    excess = np.maximum(prefill + decode - max_tokens, 0)
    return fitted(prefill - excess, decode, max_tokens)._replace(note=_note(excess, max_tokens))


def cut_in_proportion(prefill: IntArray, decode: IntArray, max_tokens: int) -> Lengths:
    """Shorten prompt and output of requests longer than `max_tokens` in proportion, each rounded up.

    This is upstream's rule for traces; a request may end up one token below the limit.
    """
    total = prefill + decode
    excess = np.maximum(total - max_tokens, 0)
    divisor = np.maximum(total, 1)
    prefill_cut = np.ceil(excess * (prefill / divisor)).astype(np.int64)
    decode_cut = np.ceil(excess * (decode / divisor)).astype(np.int64)
    return fitted(prefill - prefill_cut, decode - decode_cut, max_tokens)._replace(note=_note(excess, max_tokens))


def fitted(prefill: IntArray, decode: IntArray, max_tokens: int) -> Lengths:
    """Ensure at least one prompt and one output token, taking a missing one from the other part."""
    prefill = np.maximum(np.minimum(prefill, max_tokens - 1), 1)
    return Lengths(prefill, np.maximum(np.minimum(decode, max_tokens - prefill), 1))


def _note(excess: IntArray, max_tokens: int) -> str:
    cut = int(np.count_nonzero(excess))
    return f"{cut} cut to {max_tokens} tokens" if cut else ""


def check_max_tokens(max_tokens: int, flag: str) -> None:
    if max_tokens < 2:
        raise InputError(f"{flag} must be at least 2 (one prompt and one output token), not {max_tokens}")
