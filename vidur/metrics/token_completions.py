"""Write token_completions.csv, the prompt and output tokens completed over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import Columns, Recording
from vidur.metrics.timeline import rows_of_replicas, time_edges

DEFAULT_POINTS = 1000


def token_completions(recording: Recording, runs: Columns, num_points: int | None) -> Columns:
    """Return running totals at equally spaced times, under upstream's names of the two series.

    A prompt counts at its first token, every further output token at the end of its batch.
    """
    edges = time_edges(recording, max((num_points or DEFAULT_POINTS) - 1, 1))
    requests = recording.requests
    first_token_at = requests["prefill_completed_at"]
    order = np.argsort(first_token_at)  # those without a first token, nan, come last
    done = np.concatenate(([0], np.cumsum(requests["num_prefill_tokens"][order])))
    decoded = np.zeros(len(edges), np.int64)
    for rows in rows_of_replicas(runs["replica"], len(recording.replicas["num_blocks"])):
        decoded += _decoded_by(edges, {name: runs[name][rows] for name in _NEEDED})
    return {
        "Time (sec)": edges,
        "prefill_completion": done[np.searchsorted(first_token_at[order], edges, side="right")],
        "decode_completion": decoded,
    }


_NEEDED = ("start", "scheduled_at", "execution_time", "iteration_time", "count", "decode_size")


def _decoded_by(times: NDArray[np.float64], runs: Columns) -> NDArray[np.int64]:
    """Return a replica's output tokens by each time. Its runs end in order."""
    first_end = runs["scheduled_at"] + runs["execution_time"]
    totals = np.concatenate(([0], np.cumsum(runs["decode_size"] * runs["count"].astype(np.int64))))
    if len(first_end) == 0:
        return np.zeros(len(times), np.int64)
    row = np.searchsorted(first_end, times, side="right") - 1
    started = row >= 0
    row = np.maximum(row, 0)
    seconds = runs["iteration_time"][row]
    # The tolerance includes a run's last iteration if it ends exactly then, despite rounding.
    more = np.floor((times - first_end[row]) / np.where(seconds > 0, seconds, np.inf) + 1e-9).astype(np.int64)
    iterations = np.minimum(1 + more, runs["count"][row])
    return np.where(started, totals[row] + iterations * runs["decode_size"][row], 0)
