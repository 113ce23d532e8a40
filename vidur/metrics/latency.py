"""Compute the latencies of requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import Recording
from vidur.metrics.columns import time_per_output_token

LATENCY_NAMES = ("ttft", "tpot", "e2e", "scheduling_delay", "e2e_normalized")


def latencies(recording: Recording, counted: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Return seconds for each of the `counted` (finished) requests, by the names of LATENCY_NAMES.

    ttft: arrival to first token; tpot: per output token after the first (nan if there is only one); e2e: arrival to
    completion; scheduling_delay: arrival to first batch; e2e_normalized: e2e per output token.
    """
    requests = {name: column[counted] for name, column in recording.requests.items()}
    e2e = requests["completed_at"] - requests["arrived_at"]
    return {
        "ttft": requests["prefill_completed_at"] - requests["arrived_at"],
        "tpot": time_per_output_token(recording)[counted],
        "e2e": e2e,
        "scheduling_delay": requests["scheduled_at"] - requests["arrived_at"],
        "e2e_normalized": e2e / requests["num_decode_tokens"],
    }


def meets_objectives(
    times: dict[str, NDArray[np.float64]], ttft: float | None, tpot: float | None
) -> NDArray[np.bool_]:
    """Return which requests of `latencies` met the objectives in seconds (None: no objective).

    A request with one output token meets any TPOT.
    """
    met = np.ones(len(times["ttft"]), np.bool_)
    if ttft is not None:
        met &= times["ttft"] <= ttft
    if tpot is not None:
        met &= ~(times["tpot"] > tpot)
    return met
