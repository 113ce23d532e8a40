"""All that a router can know, and nothing else: the columns of its arrays, and the object that holds them.

The ledger is exact and immediate: requests that the router itself placed. The gauges are what the replica last
reported, each as old as GAUGE_AGE says. The hardware facts come from the configuration. The output length of a request
is in none of them. This module imports neither numba nor torch, so that a router in front of real replicas can use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# The ledger, float64[replicas, LEDGER_COLUMNS]. Outstanding = placed and not seen to end.
# OUTSTANDING: requests; AWAITING: of these, without a first token; PROMPT_TOKENS: the sum of their prompts;
# AWAITING_TOKENS: the prompts of those without a first token; STREAMED_TOKENS: what the outstanding have streamed;
# FINISHED: requests that have ended here; ITL_EWMA: seconds between successive tokens of a stream, averaged over
# time with the weight ITL_EWMA_WEIGHT for each new token, 0 before there is one.
OUTSTANDING, AWAITING, PROMPT_TOKENS, AWAITING_TOKENS, STREAMED_TOKENS, FINISHED, ITL_EWMA = range(7)
LEDGER_COLUMNS = 8
ITL_EWMA_WEIGHT = 0.02

# For a router of queue depth K, 2 * K more columns of the ledger: of the K requests that were placed first of those
# without a first token, the age in seconds and the prompt tokens, in turns; zeros where there are fewer.
QUEUE_AGE, QUEUE_PROMPT = LEDGER_COLUMNS, LEDGER_COLUMNS + 1
QUEUE_COLUMNS = 2

# The gauges, float64[replicas, GAUGE_COLUMNS]: requests, requests, fraction 0..1, count since start, seconds.
GAUGE_RUNNING, GAUGE_WAITING, GAUGE_KV_USAGE, GAUGE_PREEMPTIONS, GAUGE_AGE = range(5)
GAUGE_COLUMNS = 5

# The hardware, float64[replicas, HARDWARE_COLUMNS]: SPEED relative to the fastest replica of the cluster (0..1],
# KV_TOKENS: capacity; MAX_BATCH_SIZE: requests; GROUP_INDEX; PREFILL_SECONDS: of a prompt token, in the chunks of
# a prompt of 1,024 tokens; DECODE_SECONDS: of an iteration of 16 requests in decode.
SPEED, KV_TOKENS, MAX_BATCH_SIZE, GROUP_INDEX, PREFILL_SECONDS, DECODE_SECONDS = range(6)
HARDWARE_COLUMNS = 6

# The arrival being routed, float64[ARRIVAL_COLUMNS]. SESSION is -1 if the request has none. ORDINAL: how many were
# routed before it.
ARRIVAL_PROMPT, ARRIVAL_AGE, ARRIVAL_PRIORITY, ARRIVAL_SESSION, ARRIVAL_ORDINAL = range(5)
ARRIVAL_COLUMNS = 5

# What has completed, float64[COMPLETION_COLUMNS]: totals, then a histogram of output lengths (counts, then token sums)
# in bins of an eighth of an octave. At COMPLETIONS_KEPT all of it is halved, so that what a router expects of lengths
# follows its workload.
COMPLETED_COUNT, COMPLETED_OUTPUT, COMPLETED_PROMPT, COMPLETED_E2E, COMPLETED_TTFT = range(5)
HISTOGRAM_COUNTS = 8
BINS_PER_OCTAVE = 8
HISTOGRAM_BINS = 22 * BINS_PER_OCTAVE
HISTOGRAM_SUMS = HISTOGRAM_COUNTS + HISTOGRAM_BINS
COMPLETION_COLUMNS = HISTOGRAM_SUMS + HISTOGRAM_BINS
COMPLETIONS_KEPT = 20_000


def output_bin(tokens: float) -> int:
    """The histogram bin of an output of `tokens` >= 1."""
    return min(int(BINS_PER_OCTAVE * math.log2(tokens)), HISTOGRAM_BINS - 1)


class View(NamedTuple):
    """What the kernel of a router sees: seconds, and the arrays above. available: 1 for each replica that is there."""

    now: float
    ledger: Floats
    gauges: Floats
    hardware: Floats
    arrival: Floats
    available: NDArray[np.int64]
    completions: Floats


@dataclass(frozen=True)
class PlacedRequests:
    """The outstanding requests of one replica, in the order they were placed; arrays of one length.

    request: the number the router gave it; placed_at, arrived_at: seconds; prompt_tokens; streamed_tokens: output
    tokens seen so far; has_first_token: bool.
    """

    request: NDArray[np.int64]
    arrived_at: Floats
    placed_at: Floats
    prompt_tokens: NDArray[np.int64]
    streamed_tokens: NDArray[np.int64]
    has_first_token: NDArray[np.bool_]


@dataclass(frozen=True)
class ClusterObservation:
    """What a router sees when it routes one request. The arrays are views: copy what is to be kept.

    now: seconds. ledger, gauges, hardware: one row per replica. available: bool per replica; the router must choose
    among these. arrival: the request. completions: what has ended so far, cluster-wide.
    placed: the outstanding requests of a replica, by its number.
    """

    now: float
    ledger: Floats
    gauges: Floats
    hardware: Floats
    available: NDArray[np.bool_]
    arrival: Floats
    completions: Floats
    placed: Callable[[int], PlacedRequests]

    @property
    def num_replicas(self) -> int:
        return len(self.available)

    @property
    def view(self) -> View:
        """The same for a kernel."""
        available = self.available.astype(np.int64)
        return View(self.now, self.ledger, self.gauges, self.hardware, self.arrival, available, self.completions)
