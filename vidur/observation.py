"""Everything a router can observe: the columns of its arrays and the object that holds them.

The ledger is exact and immediate: it counts the requests that the router placed. Gauges are the replica's last report,
GAUGE_AGE seconds old. Hardware facts come from the configuration. A request's output length is never observed. This
module imports neither numba nor torch, so that a router in front of real replicas can use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# The ledger, float64[replicas, LEDGER_COLUMNS].
# OUTSTANDING: requests placed and not ended; AWAITING: of these, those without a first token; PROMPT_TOKENS: prompt
# tokens of the outstanding; AWAITING_TOKENS: of those without a first token; STREAMED_TOKENS: output tokens that the
# outstanding have streamed; FINISHED: requests ended here; ITL_EWMA: exponentially weighted average of the seconds
# between successive tokens of a stream, with weight ITL_EWMA_WEIGHT for each token; 0 before the first.
OUTSTANDING, AWAITING, PROMPT_TOKENS, AWAITING_TOKENS, STREAMED_TOKENS, FINISHED, ITL_EWMA = range(7)
LEDGER_COLUMNS = 8
ITL_EWMA_WEIGHT = 0.02

# A router of queue depth K sees 2 * K more ledger columns: age in seconds and prompt tokens, alternating, of the K
# requests without a first token that were placed first; zeros where there are fewer.
QUEUE_AGE, QUEUE_PROMPT = LEDGER_COLUMNS, LEDGER_COLUMNS + 1
QUEUE_COLUMNS = 2

# The gauges, float64[replicas, GAUGE_COLUMNS]: requests, requests, fraction 0..1, count since start, seconds.
GAUGE_RUNNING, GAUGE_WAITING, GAUGE_KV_USAGE, GAUGE_PREEMPTIONS, GAUGE_AGE = range(5)
GAUGE_COLUMNS = 5

# The hardware, float64[replicas, HARDWARE_COLUMNS]: SPEED: relative to the cluster's fastest replica, in (0, 1];
# KV_TOKENS: capacity; MAX_BATCH_SIZE: requests; GROUP_INDEX; PREFILL_SECONDS: per prompt token, for a prompt of 1,024
# tokens in chunks; DECODE_SECONDS: of an iteration of 16 requests in decode.
SPEED, KV_TOKENS, MAX_BATCH_SIZE, GROUP_INDEX, PREFILL_SECONDS, DECODE_SECONDS = range(6)
HARDWARE_COLUMNS = 6

# The arrival being routed, float64[ARRIVAL_COLUMNS]. SESSION: -1 if the request has none. ORDINAL: requests routed
# before it.
ARRIVAL_PROMPT, ARRIVAL_AGE, ARRIVAL_PRIORITY, ARRIVAL_SESSION, ARRIVAL_ORDINAL = range(5)
ARRIVAL_COLUMNS = 5

# What the router believes of prefix caches, and what prefills cost, float64[replicas, PREFIX_COLUMNS]; a router that
# keeps no index sees zeros in all columns but the last four. MATCHED_TOKENS: prompt tokens of the arrival that are
# cached: whole blocks, at most the prompt - 1. UNCACHED_TOKENS: prompt tokens that were not cached when they were
# placed, of the requests without a first token. BACKLOG_SECONDS: of their prefills, alone on the replica. HELD_TOKENS:
# in blocks that outstanding requests use, shared ones counted once. FREE_TOKENS: in blocks that hold nothing.
# EVICTION_AGE: seconds since the last use of the block that would be evicted next; 0 while blocks are free.
# ARRIVAL_SECONDS: the arrival's prefill, without its cached tokens: u * TOKEN_SECONDS + u * (m + u / 2) * PAIR_SECONDS
# for u uncached and m matched tokens. WEIGHTS_SECONDS: an iteration of a single decode, nearly all of it spent on
# reading the weights.
(
    MATCHED_TOKENS, UNCACHED_TOKENS, BACKLOG_SECONDS, HELD_TOKENS, FREE_TOKENS, EVICTION_AGE, ARRIVAL_SECONDS,
    TOKEN_SECONDS, PAIR_SECONDS, WEIGHTS_SECONDS,
) = range(10)  # fmt: skip
PREFIX_COLUMNS = 10

# Completions, float64[COMPLETION_COLUMNS]: totals, then a histogram of output lengths (counts, then token sums) in bins
# of an eighth of an octave. At COMPLETIONS_KEPT requests all values are halved, so that estimates follow the workload.
COMPLETED_COUNT, COMPLETED_OUTPUT, COMPLETED_PROMPT, COMPLETED_E2E, COMPLETED_TTFT = range(5)
HISTOGRAM_COUNTS = 8
BINS_PER_OCTAVE = 8
HISTOGRAM_BINS = 22 * BINS_PER_OCTAVE
HISTOGRAM_SUMS = HISTOGRAM_COUNTS + HISTOGRAM_BINS
COMPLETION_COLUMNS = HISTOGRAM_SUMS + HISTOGRAM_BINS
COMPLETIONS_KEPT = 20_000


def output_bin(tokens: float) -> int:
    """Return the histogram bin of an output of `tokens` >= 1."""
    return min(int(BINS_PER_OCTAVE * math.log2(tokens)), HISTOGRAM_BINS - 1)


class View(NamedTuple):
    """What a router's kernel sees: seconds and the arrays above. available: 1 for each available replica, else 0."""

    now: float
    ledger: Floats
    gauges: Floats
    hardware: Floats
    arrival: Floats
    available: NDArray[np.int64]
    completions: Floats
    prefix: Floats


def no_prefixes() -> Floats:
    return np.zeros((0, PREFIX_COLUMNS))


@dataclass(frozen=True)
class PlacedRequests:
    """The outstanding requests of one replica, in placement order, as arrays of equal length.

    request: its number; arrived_at, placed_at: seconds; streamed_tokens: output tokens so far.
    matched_tokens: prompt tokens that were believed cached at placement; None if the router keeps no index.
    """

    request: NDArray[np.int64]
    arrived_at: Floats
    placed_at: Floats
    prompt_tokens: NDArray[np.int64]
    streamed_tokens: NDArray[np.int64]
    has_first_token: NDArray[np.bool_]
    matched_tokens: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ClusterObservation:
    """What a router sees when it routes a request. The arrays are views: copy what you keep.

    now: seconds. ledger, gauges, hardware, prefix: a row per replica. available: per replica; choose one of these.
    arrival: the request. completions: totals of finished requests, cluster-wide. placed(replica): its outstanding
    requests.
    """

    now: float
    ledger: Floats
    gauges: Floats
    hardware: Floats
    available: NDArray[np.bool_]
    arrival: Floats
    completions: Floats
    placed: Callable[[int], PlacedRequests]
    prefix: Floats = field(default_factory=no_prefixes)

    @property
    def num_replicas(self) -> int:
        return len(self.available)

    @property
    def view(self) -> View:
        """The view that kernels take."""
        available = self.available.astype(np.int64)
        return View(
            self.now, self.ledger, self.gauges, self.hardware, self.arrival, available, self.completions, self.prefix
        )
