"""Combine recorded rows into whole batches for any number of pipeline stages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import FINISHED, Columns, Recording

Floats = NDArray[np.float64]


def whole_batches(recording: Recording) -> Columns:
    """Return the rows of the first stage, each a run of `count` batches: the columns of `Recording.batches`, and

    execution_time: seconds from a batch's scheduling to the end of its last stage;
    held_until: the time until which the row's KV-cache blocks and queue lengths describe the replica.
    """
    batches = recording.batches
    end = batches["start"] + batches["count"] * batches["iteration_time"]
    is_first = batches["stage"] == 0
    if is_first.all():
        waited = batches["start"] - batches["scheduled_at"]
        return {**batches, "execution_time": waited + batches["iteration_time"], "held_until": end}
    runs: Columns = {name: column[is_first] for name, column in batches.items()}
    last_end = _last_stage_end(batches["batch_id"], end, runs["batch_id"])
    # A run of several batches has one stage, so its first batch ends one iteration after its scheduling.
    several = runs["count"] > 1
    first_end = np.where(several, runs["start"] + runs["iteration_time"], last_end)
    runs["execution_time"] = first_end - runs["scheduled_at"]
    runs["held_until"] = np.minimum(last_end, _next_start(runs["replica"], runs["start"]))
    return runs


def only_batches(runs: Columns, first: int | None, last: int | None) -> Columns:
    """Return the batches numbered `first` to `last` inclusive (None: no limit), cutting runs if needed."""
    if first is None and last is None:
        return runs
    number, count = runs["batch_id"], runs["count"]
    skipped = np.clip(0 if first is None else first - number, 0, count)
    kept = count - skipped
    if last is not None:
        kept = np.clip(last + 1 - number - skipped, 0, kept)
    chosen = kept > 0
    cut: Columns = {name: column[chosen] for name, column in runs.items()}
    skipped, kept = skipped[chosen], kept[chosen]
    cut["batch_id"] = cut["batch_id"] + skipped
    cut["start"] = cut["start"] + skipped * cut["iteration_time"]
    cut["scheduled_at"] = cut["scheduled_at"] + skipped * cut["iteration_time"]
    cut["decode_kv_tokens"] = cut["decode_kv_tokens"] + skipped * cut["decode_size"]
    cut["count"] = kept
    return cut


def counted_requests(recording: Recording, runs: Columns, first: int | None, last: int | None) -> NDArray[np.bool_]:
    """Return which requests finished in a batch numbered `first` to `last` (upstream measures only these).

    If no batch was recorded, all that finished count.
    """
    finished = recording.requests["status"] == FINISHED
    if (first is None and last is None) or len(runs["count"]) == 0:
        return finished  # type: ignore[no-any-return]
    counted = np.zeros(len(finished), np.bool_)
    ids = np.flatnonzero(finished)
    final = final_batch(recording, runs, ids)
    counted[ids] = (final >= (first or 0)) & (final <= (last if last is not None else np.iinfo(np.int64).max))
    return counted


def final_batch(recording: Recording, runs: Columns, ids: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the number of the batch in which each of the requests `ids` finished."""
    requests = recording.requests
    return _last_number(runs, rows_ending_at(runs, requests["replica"][ids], requests["completed_at"][ids]))


def run_ends(runs: Columns) -> Floats:
    """Return when the last batch of each run ended."""
    ends: Floats = runs["scheduled_at"] + runs["execution_time"] + (runs["count"] - 1) * runs["iteration_time"]
    return ends


def rows_ending_at(runs: Columns, replicas: NDArray[np.int32], times: Floats) -> NDArray[np.intp]:
    """Return each replica's row that ends nearest to each time; requests make progress at the end of runs."""
    ends = run_ends(runs)
    order = np.lexsort((ends, runs["replica"]))
    nearest = np.empty(len(times), np.intp)
    for number in np.unique(replicas):
        first, last = np.searchsorted(runs["replica"][order], (number, number + 1))
        rows = order[first:last]
        selected = replicas == number
        nearest[selected] = rows[_nearest(ends[rows], times[selected])]
    return nearest


def _last_number(runs: Columns, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    return runs["batch_id"][rows].astype(np.int64) + runs["count"][rows] - 1


def _nearest(points: Floats, values: Floats) -> NDArray[np.intp]:
    """Return the index of the point nearest to each value. `points` ascend and are not empty."""
    middles = (points[1:] + points[:-1]) / 2
    return np.searchsorted(middles, values)


def _last_stage_end(batch_id: NDArray[np.int64], end: Floats, wanted: NDArray[np.int64]) -> Floats:
    order = np.argsort(batch_id, kind="stable")
    numbers, first = np.unique(batch_id[order], return_index=True)
    last_end: Floats = np.maximum.reduceat(end[order], first)
    return last_end[np.searchsorted(numbers, wanted)]


def _next_start(replica: NDArray[np.int32], start: Floats) -> Floats:
    """Return when the replica's next run starts; inf if there is none. A replica's runs are in time order."""
    order = np.argsort(replica, kind="stable")
    ordered = np.full(len(start), np.inf)
    same = replica[order][1:] == replica[order][:-1]
    ordered[:-1][same] = start[order][1:][same]
    following = np.empty(len(start))
    following[order] = ordered
    return following
