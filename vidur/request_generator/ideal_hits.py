"""Compute what an infinite prefix cache would hit: the bound for any router and any memory."""

from __future__ import annotations

import numpy as np

from vidur.request_generator.request_table import IntArray, RequestTable


def ideal_hit_rate(table: RequestTable, block_size: int) -> float:
    """Return the share of all prompt tokens that `ideal_hits` finds, from 0 to 1."""
    return float(ideal_hits(table, block_size).sum() / table.num_prefill_tokens.sum())


def ideal_hits(table: RequestTable, block_size: int) -> IntArray:
    """int64[N]: prompt tokens found in a cache of infinite size that holds every earlier request of the table.

    By vLLM's rule: full blocks, of answers too, where their content is known; at least one token is computed anew.
    Takes a microsecond or two for each run of the content, however long the runs are.
    """
    if table.content is None:
        return np.zeros(len(table), np.int64)
    blocks = table.content.blocks(block_size)
    owner = np.repeat(np.arange(len(table)), np.diff(blocks.offsets))
    begins = np.concatenate([[0], blocks.ends[:-1]])
    begins[blocks.offsets[:-1][np.diff(blocks.offsets) > 0]] = 0
    starts = blocks.keys
    ends = blocks.keys + blocks.ends - begins
    # Between neighbouring bounds all keys are found alike. after[i]: a bound from i on, behind which a key may be new.
    bounds, places = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    first, last = places[: len(starts)].tolist(), places[len(starts) :].tolist()
    after = list(range(len(bounds)))
    hits = np.zeros(len(starts), np.int64)
    for run, (low, high) in enumerate(zip(first, last, strict=True)):
        new = low
        while after[new] != new:
            after[new] = after[after[new]]
            new = after[new]
        hits[run] = bounds[min(new, high)] - bounds[low]
        for place in range(new, high):
            after[place] = place + 1
    found = np.bincount(owner, weights=hits, minlength=len(table)).astype(np.int64)
    return np.minimum(found, (table.num_prefill_tokens - 1) // block_size) * block_size
