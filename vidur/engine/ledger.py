"""Keep the router's ledger: placements, first tokens and completions (columns: vidur.observation)."""

from __future__ import annotations

import math

from vidur import observation
from vidur.engine.callback import hook_callback
from vidur.engine.compile import kernel
from vidur.engine.queues import drop_awaiting, drop_ledger, push_awaiting, push_ledger
from vidur.engine.recording import FINISHED as STATUS_FINISHED
from vidur.engine.state import State
from vidur.observation import (
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_E2E,
    COMPLETED_OUTPUT,
    COMPLETED_PROMPT,
    COMPLETED_TTFT,
    COMPLETIONS_KEPT,
    FINISHED,
    HISTOGRAM_COUNTS,
    HISTOGRAM_SUMS,
    ITL_EWMA,
    ITL_EWMA_WEIGHT,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    STREAMED_TOKENS,
)

run_hook = hook_callback.call
output_bin = kernel(observation.output_bin)


@kernel
def count_placed(s: State, replica: int, request: int) -> None:
    ledger, prompt = s.books.ledger, s.requests[request].prompt
    push_ledger(s, replica, request)
    push_awaiting(s, replica, request)
    ledger[replica, OUTSTANDING] += 1
    ledger[replica, AWAITING] += 1
    ledger[replica, PROMPT_TOKENS] += prompt
    ledger[replica, AWAITING_TOKENS] += prompt


@kernel
def count_first_token(s: State, replica: int, request: int) -> None:
    drop_awaiting(s, replica, request)
    s.books.ledger[replica, AWAITING] -= 1
    s.books.ledger[replica, AWAITING_TOKENS] -= s.requests[request].prompt
    if s.clock[0].indexed == 1 and s.clock[0].foreseeing == 0:
        run_hook(s.hooks[0].first_token, (replica, request, 0, 0.0, s))


@kernel
def count_dropped(s: State, replica: int, request: int) -> None:
    """Remove a request that has ended, or whose replica failed, from the ledger."""
    ledger = s.books.ledger
    drop_ledger(s, replica, request)
    ledger[replica, OUTSTANDING] -= 1
    ledger[replica, PROMPT_TOKENS] -= s.requests[request].prompt
    ledger[replica, STREAMED_TOKENS] -= s.requests[request].streamed
    if math.isnan(s.requests[request].first_token_at):
        count_first_token(s, replica, request)


@kernel
def count_itl(s: State, replica: int, seconds: float, count: int) -> None:
    """Update the replica's average inter-token latency with `count` successive tokens, `seconds` apart."""
    ledger = s.books.ledger
    if ledger[replica, ITL_EWMA] == 0.0:
        ledger[replica, ITL_EWMA] = seconds
        return
    # A linear approximation of `count` updates of an exponential average.
    weight = min(1.0, ITL_EWMA_WEIGHT * count)
    ledger[replica, ITL_EWMA] += weight * (seconds - ledger[replica, ITL_EWMA])


@kernel
def count_finished(s: State, replica: int, request: int, now: float) -> None:
    count_dropped(s, replica, request)
    row = s.requests[request]
    row.status = STATUS_FINISHED
    s.clock[0].num_finished += 1
    completions = s.books.completions
    s.books.ledger[replica, FINISHED] += 1
    router = row.router
    if len(completions) > 1:
        s.books.ledger[replica, LEDGER_COLUMNS + router] += 1
    output = row.output
    completions[router, COMPLETED_COUNT] += 1
    completions[router, COMPLETED_OUTPUT] += output
    completions[router, COMPLETED_PROMPT] += row.prompt
    completions[router, COMPLETED_E2E] += now - row.arrived_at
    completions[router, COMPLETED_TTFT] += row.first_token_at - row.arrived_at
    bin_ = output_bin(output)
    completions[router, HISTOGRAM_COUNTS + bin_] += 1
    completions[router, HISTOGRAM_SUMS + bin_] += output
    if completions[router, COMPLETED_COUNT] >= COMPLETIONS_KEPT:
        for column in range(completions.shape[1]):
            completions[router, column] *= 0.5
