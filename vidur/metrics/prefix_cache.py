"""Compute what prefix caches saved: hit rates, evictions and the errors of routers' beliefs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import Columns, Recording

Floats = NDArray[np.float64]


def caches(recording: Recording) -> bool:
    """Whether replicas cached prefixes."""
    return "hit_tokens" in recording.replicas


def replica_cache_columns(recording: Recording) -> Columns:
    """Return for each replica what summary.json says of its cache; nan if undefined. Empty without prefix caching."""
    replicas = recording.replicas
    if not caches(recording):
        return {}
    return {
        "query_tokens": replicas["query_tokens"],
        "hit_tokens": replicas["hit_tokens"],
        "hit_rate": _ratio(replicas["hit_tokens"], replicas["query_tokens"]),
        "evicted_blocks": replicas["evicted_blocks"],
        "mean_eviction_age": _ratio(replicas["evicted_age"], replicas["evicted_blocks"]),
    }


def cache_figures(recording: Recording) -> dict[str, Any]:
    """Return `prefix_cache` of summary.json: the columns of `replica_cache_columns` over all replicas."""
    names = ("query_tokens", "hit_tokens", "evicted_blocks", "evicted_age")
    query, hit, evicted, age = (recording.replicas[name].sum().item() for name in names)
    return {
        "query_tokens": query,
        "hit_tokens": hit,
        "hit_rate": hit / query if query else None,
        "evicted_blocks": evicted,
        "mean_eviction_age": age / evicted if evicted else None,
    }


def tokens_over_time(recording: Recording, edges: Floats) -> tuple[Floats, Floats]:
    """Return prompt tokens, and the cached ones among them, of requests first scheduled in each bin, by replica.

    float64[replicas, bins] each.
    """
    requests, shape = recording.requests, (len(recording.replicas["num_blocks"]), len(edges) - 1)
    begun = begun_requests(recording)
    bins = np.clip(np.searchsorted(edges, requests["scheduled_at"][begun], side="right") - 1, 0, shape[1] - 1)
    cells = requests["replica"][begun].astype(np.int64) * shape[1] + bins
    prompts, cached = (
        np.bincount(cells, requests[name][begun], shape[0] * shape[1]).astype(np.float64).reshape(shape)
        for name in ("num_prefill_tokens", "num_cached_tokens")
    )
    return prompts, cached


def begun_requests(recording: Recording) -> NDArray[np.intp]:
    """Return the requests that were scheduled, for which cached tokens are known."""
    return np.flatnonzero(~np.isnan(recording.requests["scheduled_at"]))


def belief_errors(recording: Recording) -> Floats:
    """Return for each of `begun_requests` the tokens that the router believed cached beyond those that were."""
    begun, requests = begun_requests(recording), recording.requests
    errors: Floats = (requests["num_believed_tokens"] - requests["num_cached_tokens"])[begun].astype(np.float64)
    return errors


def seconds_saved(recording: Recording) -> Floats:
    """Return for each request the seconds that its cached tokens would have taken to prefill, alone on its replica."""
    requests, replicas = recording.requests, recording.replicas
    cached, replica = requests["num_cached_tokens"], requests["replica"]
    token, pair = replicas["prefill_token_seconds"][replica], replicas["prefill_pair_seconds"][replica]
    saved: Floats = cached * token + 0.5 * cached.astype(np.float64) ** 2 * pair
    return saved


def _ratio(amounts: NDArray[Any], totals: NDArray[Any]) -> Floats:
    return np.where(totals > 0, amounts / np.maximum(totals, 1), np.nan)
