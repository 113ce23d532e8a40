"""Short names for the array types of kernels."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Arrays(NamedTuple):
    """All arrays of one simulation, in the order of the parameters of vidur.engine.cluster.run after its three numbers,
    under their names in vidur.engine.state.EngineState.

    Kernels that are built on `run` take them as one; `run` and what it calls take each by itself.
    """

    next_time: Floats
    times: Floats
    requests: Ints
    replicas: Ints
    replica_floats: Floats
    ready: Ints
    batch_requests: Ints
    batch_tokens: Ints
    batches: Ints
    busy: Floats
    groups: Ints
    prefill_overhead: Floats
    token_times: Floats
    decode_times: Floats
    prefill_times: Floats
    cpu_times: Floats
    ledger: Floats
    completions: Floats
    cluster: Ints
    cluster_floats: Floats
    row_floats: Floats
    row_ints: NDArray[Any]
    member_offsets: Ints
    members: Ints
    send_times: Floats
    stage_ends: Floats
    stage_state: Ints
    followers: Ints
    batch_times: Floats
    sessions: Ints
    events: Floats
    held: Ints
    gauges: Floats
    hardware: Floats
    observed: Floats
    arrival: Floats
    available: Ints
    memory: Floats
    draws: Floats
