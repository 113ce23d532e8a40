"""The router's ledger as the engine keeps it: placements, first tokens, completions.

ledger, float64[replicas, LEDGER_COLUMNS], is of all that is placed; where there are several routers it has a column for
each of them after these: how many of its requests have ended. completions, float64[routers, COMPLETION_COLUMNS].
"""

from __future__ import annotations

import math

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ARRIVED,
    FIRST_TOKEN,
    NUM_FINISHED,
    OUTPUT,
    PROMPT,
    ROUTER,
    STATUS,
    STREAMED,
)
from vidur.engine.queues import drop_awaiting, drop_ledger, push_awaiting, push_ledger
from vidur.engine.recording import FINISHED as STATUS_FINISHED
from vidur.scheduler import observation

output_bin = kernel(observation.output_bin)
AWAITING = observation.AWAITING
AWAITING_TOKENS = observation.AWAITING_TOKENS
COMPLETED_COUNT = observation.COMPLETED_COUNT
COMPLETED_E2E = observation.COMPLETED_E2E
COMPLETED_OUTPUT = observation.COMPLETED_OUTPUT
COMPLETED_PROMPT = observation.COMPLETED_PROMPT
COMPLETIONS_KEPT = observation.COMPLETIONS_KEPT
COMPLETED_TTFT = observation.COMPLETED_TTFT
FINISHED = observation.FINISHED
HISTOGRAM_COUNTS = observation.HISTOGRAM_COUNTS
HISTOGRAM_SUMS = observation.HISTOGRAM_SUMS
LEDGER_COLUMNS = observation.LEDGER_COLUMNS
OUTSTANDING = observation.OUTSTANDING
PROMPT_TOKENS = observation.PROMPT_TOKENS
STREAMED_TOKENS = observation.STREAMED_TOKENS
TOKEN_SECONDS = observation.TOKEN_SECONDS
TOKEN_SECONDS_WEIGHT = observation.TOKEN_SECONDS_WEIGHT


@kernel
def count_placed(replica: int, request: int, requests: Ints, replicas: Ints, ledger: Floats) -> None:
    push_ledger(requests, replicas, replica, request)
    push_awaiting(requests, replicas, replica, request)
    ledger[replica, OUTSTANDING] += 1
    ledger[replica, AWAITING] += 1
    ledger[replica, PROMPT_TOKENS] += requests[request, PROMPT]
    ledger[replica, AWAITING_TOKENS] += requests[request, PROMPT]


@kernel
def count_first_token(replica: int, request: int, requests: Ints, replicas: Ints, ledger: Floats) -> None:
    drop_awaiting(requests, replicas, replica, request)
    ledger[replica, AWAITING] -= 1
    ledger[replica, AWAITING_TOKENS] -= requests[request, PROMPT]


@kernel
def count_dropped(replica: int, request: int, times: Floats, requests: Ints, replicas: Ints, ledger: Floats) -> None:
    """Take a request off the ledger, whether it has ended or its replica failed."""
    drop_ledger(requests, replicas, replica, request)
    ledger[replica, OUTSTANDING] -= 1
    ledger[replica, PROMPT_TOKENS] -= requests[request, PROMPT]
    ledger[replica, STREAMED_TOKENS] -= requests[request, STREAMED]
    if math.isnan(times[request, FIRST_TOKEN]):
        count_first_token(replica, request, requests, replicas, ledger)


@kernel
def count_token_seconds(replica: int, seconds: float, count: int, ledger: Floats) -> None:
    """Note `count` tokens, one after the other, in `seconds` each, on every stream of the replica."""
    if ledger[replica, TOKEN_SECONDS] == 0.0:
        ledger[replica, TOKEN_SECONDS] = seconds
        return
    # Linear in the count where an average of single tokens would take a power of it.
    weight = min(1.0, TOKEN_SECONDS_WEIGHT * count)
    ledger[replica, TOKEN_SECONDS] += weight * (seconds - ledger[replica, TOKEN_SECONDS])


@kernel
def count_finished(
    replica: int,
    request: int,
    now: float,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
) -> None:
    count_dropped(replica, request, times, requests, replicas, ledger)
    requests[request, STATUS] = STATUS_FINISHED
    cluster[NUM_FINISHED] += 1
    ledger[replica, FINISHED] += 1
    router = requests[request, ROUTER]
    if len(completions) > 1:
        ledger[replica, LEDGER_COLUMNS + router] += 1
    output = requests[request, OUTPUT]
    completions[router, COMPLETED_COUNT] += 1
    completions[router, COMPLETED_OUTPUT] += output
    completions[router, COMPLETED_PROMPT] += requests[request, PROMPT]
    completions[router, COMPLETED_E2E] += now - times[request, ARRIVED]
    completions[router, COMPLETED_TTFT] += times[request, FIRST_TOKEN] - times[request, ARRIVED]
    bin_ = output_bin(output)
    completions[router, HISTOGRAM_COUNTS + bin_] += 1
    completions[router, HISTOGRAM_SUMS + bin_] += output
    if completions[router, COMPLETED_COUNT] >= COMPLETIONS_KEPT:
        for column in range(completions.shape[1]):
            completions[router, column] *= 0.5
