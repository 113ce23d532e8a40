"""Compute inter-token latency (ITL), the time between two successive output tokens of a request.

A request gets its first output token when the iteration that completes its prompt ends, and one more with each
iteration in which it decodes: n tokens have n - 1 latencies, which add up to completion - first token. Batch rows say
when iterations end and how often they repeat, but not which requests they serve. If exactly as many iterations as a
request needs could have served it between its first token and its completion, it was in all of them, and its latencies
are exact. The iterations that could have served it:

- with one pipeline stage: the replica's iterations with requests in decode;
- with several: the batch formed when the batch of the previous token ended, and so on. Batches leave a pipeline in the
  order in which they were formed, so a request that missed one of these would have completed later.

Other requests waited at unknown times: they were preempted, or a batch was full. Their latencies are estimated: a long
one for each restart (at least one), the others as long as the mean iteration.
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
    """Weighted latencies. values: seconds, float64[K]; weights: tokens with that latency, int64[K]. exact: the fraction
    of tokens whose latency is not estimated; nan if there are none."""

    values: Floats
    weights: Ints
    exact: float


class _Chains(NamedTuple):
    """Rows ordered as they can follow each other for one request. row: their numbers; chain: equal for rows that belong
    together; first_end, end: of the first and last iteration; iterations: those that could have served a request in
    decode; seconds: of an iteration after the first."""

    row: NDArray[np.intp]
    chain: Ints
    first_end: Floats
    end: Floats
    iterations: Ints
    seconds: Floats


def token_latencies(recording: Recording, runs: Columns, counted: NDArray[np.bool_]) -> TokenLatencies:
    """Return the latencies of the `counted` (finished) requests; empty if no batch was recorded.

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
    """Return latencies of requests in every row with decodes from `first`, with their first token, to `last`."""
    serving = np.flatnonzero(chains.iterations > 0)
    rank = np.cumsum(chains.iterations > 0)
    begin, end = rank[first], rank[last]
    in_row = np.cumsum(np.bincount(begin, minlength=len(serving) + 1) - np.bincount(end, minlength=len(serving) + 1))
    begun = np.bincount(begin, minlength=len(serving) + 1)[:-1]
    in_row = in_row[:-1]
    # The requests of a row that were also in the previous serving row; others have just had their first token.
    after_row = in_row - begun
    between_rows = chains.first_end[serving] - np.concatenate(([0.0], chains.end[serving][:-1]))
    values = (between_rows, chains.seconds[serving], chains.first_end[serving[begin]] - first_token_at)
    weights = (after_row, in_row * (chains.iterations[serving] - 1), np.ones(len(first), np.int64))
    some = [weight > 0 for weight in weights]
    return (
        np.concatenate([value[selected] for value, selected in zip(values, some, strict=True)]),
        np.concatenate([weight[selected] for weight, selected in zip(weights, some, strict=True)]),
    )


def _estimated_latencies(seconds: Floats, needed: Ints, iterations: Ints, restarts: Ints) -> tuple[Floats, Ints]:
    """Estimate two values for each request: `needed` latencies over `seconds`, in which `iterations` ran."""
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
    """int64[replicas]: pipeline stages of the replicas that ran."""
    stages = np.ones(len(recording.replicas["num_blocks"]), np.int64)
    for name, seconds in recording.replicas.items():
        if name.startswith("busy_time_stage"):
            stages[seconds > 0.0] = 1 + int(name.removeprefix("busy_time_stage"))
    return stages


def _pipeline_chains(runs: Columns, end: Floats, rows: NDArray[np.intp]) -> Ints:
    """Number pipeline rows so that a row formed at the end of another shares its number."""
    replica, formed = runs["replica"][rows], runs["scheduled_at"][rows]
    order = np.lexsort((runs["batch_id"][rows], formed, replica))
    before = np.arange(len(rows))
    for number in np.unique(replica):
        selected = order[slice(*np.searchsorted(replica[order], (number, number + 1)))]
        index = np.minimum(np.searchsorted(formed[selected], end[rows[selected]]), len(selected) - 1)
        follows = formed[selected[index]] == end[rows[selected]]
        before[selected[index[follows]]] = selected[follows]
    while True:
        # Each round doubles the distance to the known predecessor.
        further = before[before]
        if (further == before).all():
            return before
        before = further


def _iterations_between(recording: Recording, runs: Columns, rows: NDArray[np.intp]) -> Ints:
    """Count the iterations with decodes that ended after rows[0] up to rows[1], per pipeline stage."""
    if rows.size == 0:
        return np.zeros(0, np.int64)
    order = np.lexsort((run_ends(runs), runs["replica"]))
    count = np.empty(len(order), np.int64)
    count[order] = np.cumsum(np.where(runs["decode_size"] > 0, runs["count"], 0)[order])
    between: Ints = (count[rows[1]] - count[rows[0]]) // _num_stages(recording)[runs["replica"][rows[0]]]
    return between
