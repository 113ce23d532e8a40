"""Inter-token latency: the time between two successive output tokens of a request.

A request has an output token at the end of the iteration that completes its prompt, and one more at the end of each
iteration in which it decodes; so one of n tokens has n - 1 latencies, which add up to completion - first token. Rows of
batches say when iterations end and how often they repeat, not which requests are in them. But a request needs an
iteration for each token. Where exactly as many as it needs could have served it between its first token and its
completion, it was in every one of them, and its latencies are known: they are exact. Which iterations could have served
a request:

- one pipeline stage: those of its replica with requests in decode;
- several: the batch that was formed when the one with the token before ended, and so on. Batches leave a pipeline in
  the order in which they were formed, so a request that missed one of these would have been completed later.

The others waited somewhere unknown: they were preempted, or left out of a batch that was full. For these the latencies
are estimated: one long one for each restart (one at least), the others as long as an iteration in the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import Columns, Recording
from vidur.metrics.batch_runs import rows_ending_at, run_ends

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TokenLatencies(NamedTuple):
    """values: seconds, float64[K]; weights: of how many tokens each is the latency, int64[K]. exact: the part of the
    tokens whose latency is not estimated; nan if there are none."""

    values: Floats
    weights: Ints
    exact: float


class _Chains(NamedTuple):
    """Rows in the order in which they can follow each other for one request. row: their numbers; chain: int64, equal
    where rows belong together; first_end, end: of the first iteration and the last; iterations: those that could have
    served a request in decode; seconds: of an iteration after the first."""

    row: NDArray[np.intp]
    chain: Ints
    first_end: Floats
    end: Floats
    iterations: Ints
    seconds: Floats


def token_latencies(recording: Recording, runs: Columns, counted: NDArray[np.bool_]) -> TokenLatencies:
    """Return the latencies of the `counted` requests, which have finished. None if no batch was recorded.

    runs: of `vidur.metrics.batch_runs.whole_batches`.
    """
    requests = recording.requests
    ids = np.flatnonzero(counted & (requests["num_decode_tokens"] > 1))
    if len(ids) == 0 or len(runs["count"]) == 0:
        return TokenLatencies(np.zeros(0), np.zeros(0, np.int64), np.nan)
    begin, until = requests["prefill_completed_at"][ids], requests["completed_at"][ids]
    both = np.tile(requests["replica"][ids], 2)
    rows = rows_ending_at(runs, both, np.concatenate((begin, until))).reshape(2, -1)
    chains = _chains(recording, runs)
    position = np.empty(len(chains.row), np.intp)
    position[chains.row] = np.arange(len(chains.row))
    first, last = position[rows]
    needed, restarts = requests["num_decode_tokens"][ids] - 1, requests["num_restarts"][ids]
    could = np.cumsum(chains.iterations)
    exact = (chains.chain[first] == chains.chain[last]) & (could[last] - could[first] == needed) & (restarts == 0)
    values, weights = _exact_latencies(chains, first[exact], last[exact], begin[exact])
    rest = ~exact
    iterations = _iterations_between(recording, runs, rows[:, rest])
    estimated, estimated_weights = _estimated_latencies((until - begin)[rest], needed[rest], iterations, restarts[rest])
    return TokenLatencies(
        np.concatenate((values, estimated)),
        np.concatenate((weights, estimated_weights)),
        float(needed[exact].sum() / needed.sum()),
    )


def _exact_latencies(
    chains: _Chains, first: NDArray[np.intp], last: NDArray[np.intp], first_token_at: Floats
) -> tuple[Floats, Ints]:
    """Of requests that have their first token in row `first` and are in every row with decodes from there to `last`."""
    serving = np.flatnonzero(chains.iterations > 0)
    rank = np.cumsum(chains.iterations > 0)
    begin, end = rank[first], rank[last]
    in_row = np.cumsum(np.bincount(begin, minlength=len(serving) + 1) - np.bincount(end, minlength=len(serving) + 1))
    begun = np.bincount(begin, minlength=len(serving) + 1)[:-1]
    in_row = in_row[:-1]
    # Of those in a row, the ones that were in the serving row before; the others have had their first token only.
    after_row = in_row - begun
    between_rows = chains.first_end[serving] - np.concatenate(([0.0], chains.end[serving][:-1]))
    values = (between_rows, chains.seconds[serving], chains.first_end[serving[begin]] - first_token_at)
    weights = (after_row, in_row * (chains.iterations[serving] - 1), np.ones(len(first), np.int64))
    some = [weight > 0 for weight in weights]
    return (
        np.concatenate([value[own] for value, own in zip(values, some, strict=True)]),
        np.concatenate([weight[own] for weight, own in zip(weights, some, strict=True)]),
    )


def _estimated_latencies(seconds: Floats, needed: Ints, iterations: Ints, restarts: Ints) -> tuple[Floats, Ints]:
    """Of requests with `needed` latencies over `seconds`, in which a replica ran `iterations`: two values for each."""
    stalls = np.minimum(np.maximum(restarts, 1), needed)
    usual = seconds / np.maximum(iterations, needed)
    long = (seconds - (needed - stalls) * usual) / stalls
    values, weights = np.concatenate((long, usual)), np.concatenate((stalls, needed - stalls))
    return values[weights > 0], weights[weights > 0]


def _chains(recording: Recording, runs: Columns) -> _Chains:
    end = run_ends(runs)
    piped = _num_stages(recording)[runs["replica"]] > 1
    chain = runs["replica"].astype(np.int64)
    chain[piped] = len(recording.replicas["num_blocks"]) + _pipeline_chains(runs, end, np.flatnonzero(piped))
    row = np.lexsort((end, chain))
    count = np.where(piped | (runs["decode_size"] > 0), runs["count"], 0).astype(np.int64)
    first_end = np.where(piped, end, runs["start"] + runs["iteration_time"])
    return _Chains(row, chain[row], first_end[row], end[row], count[row], runs["iteration_time"][row])


def _num_stages(recording: Recording) -> Ints:
    """int64[replicas]: pipeline stages, of those that ran."""
    stages = np.ones(len(recording.replicas["num_blocks"]), np.int64)
    for name, seconds in recording.replicas.items():
        if name.startswith("busy_time_stage"):
            stages[seconds > 0.0] = 1 + int(name.removeprefix("busy_time_stage"))
    return stages


def _pipeline_chains(runs: Columns, end: Floats, rows: NDArray[np.intp]) -> Ints:
    """Return a number for each row, equal where one was formed at the end of the one before. Rows of pipelines only."""
    replica, formed = runs["replica"][rows], runs["scheduled_at"][rows]
    order = np.lexsort((runs["batch_id"][rows], formed, replica))
    before = np.arange(len(rows))
    for number in np.unique(replica):
        own = order[slice(*np.searchsorted(replica[order], (number, number + 1)))]
        place = np.minimum(np.searchsorted(formed[own], end[rows[own]]), len(own) - 1)
        follows = formed[own[place]] == end[rows[own]]
        before[own[place[follows]]] = own[follows]
    while True:
        # Each round doubles the distance to the row that is known to come before.
        further = before[before]
        if (further == before).all():
            return before
        before = further


def _iterations_between(recording: Recording, runs: Columns, rows: NDArray[np.intp]) -> Ints:
    """How many iterations with decodes ended after rows[0] up to rows[1], over the pipeline stages of their replica."""
    if rows.size == 0:
        return np.zeros(0, np.int64)
    order = np.lexsort((run_ends(runs), runs["replica"]))
    count = np.empty(len(order), np.int64)
    count[order] = np.cumsum(np.where(runs["decode_size"] > 0, runs["count"], 0)[order])
    between: Ints = (count[rows[1]] - count[rows[0]]) // _num_stages(recording)[runs["replica"][rows[0]]]
    return between
