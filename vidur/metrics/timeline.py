"""Compute how busy, full and loaded each replica was over time, in equal bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import Columns, Recording
from vidur.metrics.columns import first_arrival

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Timeline:
    """Means over each bin, float64[R, B]; edges: float64[B + 1], seconds from the first arrival to the last event.

    busy: fraction of the time that a stage was executing, averaged over stages. kv_use: fraction of KV-cache blocks.
    running, waiting: requests. A replica without a batch in progress counts as empty.
    """

    edges: Floats
    busy: Floats
    kv_use: Floats
    running: Floats
    waiting: Floats


def timeline(recording: Recording, runs: Columns, num_bins: int) -> Timeline:
    """Make a timeline. runs: from `whole_batches`."""
    num_replicas = len(recording.replicas["num_blocks"])
    edges = time_edges(recording, num_bins)
    means = {name: np.zeros((num_replicas, len(edges) - 1)) for name in ("kv_blocks", "num_running", "num_waiting")}
    for replica, rows in enumerate(rows_of_replicas(runs["replica"], num_replicas)):
        start, end = runs["start"][rows], runs["held_until"][rows]
        for name, binned in means.items():
            binned[replica] = binned_mean(start, end, runs[name][rows], edges)
    return Timeline(
        edges=edges,
        busy=_busy_fraction(recording, edges),
        kv_use=means["kv_blocks"] / recording.replicas["num_blocks"][:, None],
        running=means["num_running"],
        waiting=means["num_waiting"],
    )


def time_edges(recording: Recording, num_bins: int) -> Floats:
    """Return the edges of equal bins over the duration; one bin of a second if the duration is 0."""
    begin = first_arrival(recording)
    if recording.end_time <= begin:
        return np.array([begin, begin + 1.0])
    return np.linspace(begin, recording.end_time, num_bins + 1)


def rows_of_replicas(replica: NDArray[np.int32], num_replicas: int) -> list[Rows]:
    """Return the rows of each replica, in recorded order."""
    order = np.argsort(replica, kind="stable")
    first = np.searchsorted(replica[order], np.arange(num_replicas + 1))
    return [order[first[number] : first[number + 1]] for number in range(num_replicas)]


def binned_mean(start: Floats, end: Floats, values: NDArray[np.number], edges: Floats) -> Floats:
    """Return the mean over each bin of a function that is `values[i]` in [start[i], end[i]) and 0 elsewhere.

    The intervals are in order and do not overlap. The integral is piecewise linear, so values at the edges suffice.
    """
    if len(start) == 0:
        return np.zeros(len(edges) - 1)
    points = np.column_stack((start, end)).ravel()
    reached = np.cumsum(values * (end - start))
    integral = np.repeat(np.concatenate(([0.0], reached)), 2)[1:-1]
    return np.diff(np.interp(edges, points, integral)) / np.diff(edges)  # type: ignore[no-any-return]


def _busy_fraction(recording: Recording, edges: Floats) -> Floats:
    batches = recording.batches
    num_replicas = len(recording.replicas["num_blocks"])
    busy = np.zeros((num_replicas, len(edges) - 1))
    for replica, rows in enumerate(rows_of_replicas(batches["replica"], num_replicas)):
        stage = batches["stage"][rows]
        num_stages = int(stage.max(initial=0)) + 1
        for number in range(num_stages):
            selected = rows[stage == number]
            start = batches["start"][selected]
            end = start + batches["count"][selected] * batches["iteration_time"][selected]
            busy[replica] += binned_mean(start, end, np.ones(len(selected)), edges) / num_stages
    return busy
