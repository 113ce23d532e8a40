"""One decision at a time: a placement in, what is seen at the next decision out. Compiled together with the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import rl.kernels.compiled
from rl.kernels.features import CONTEXT, FACTS, derive_facts, encode_context, encode_replicas
from rl.kernels.rollout import EVENTS, PENDING
from vidur.engine.arrays import Floats, Ints
from vidur.engine.cluster import place, run
from vidur.engine.compile import allocating_kernel
from vidur.engine.foresight import COST_PARTS, foresee
from vidur.engine.layout import CURRENT, DECISION, NEXT_EVENT, YIELD

__all__ = ["REFUSED", "advance", "assign", "rl", "step"]

# In place of a status of the engine: the replica can never hold the request, or a lookup is beyond the tables.
REFUSED = -1

_STEPS = 1 << 40


@allocating_kernel
def assign(
    replica: int,
    policy: int,
    state: Ints,
    objectives: Floats,
    projected: Floats,
    cost: Floats,
    next_time: Floats,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    busy: Floats,
    groups: Ints,
    prefill_overhead: Floats,
    token_times: Floats,
    decode_times: Floats,
    prefill_times: Floats,
    cpu_times: Floats,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
    cluster_floats: Floats,
    row_floats: Floats,
    row_ints: NDArray[Any],
    member_offsets: Ints,
    members: Ints,
    send_times: Floats,
    stage_ends: Floats,
    stage_state: Ints,
    followers: Ints,
    batch_times: Floats,
    sessions: Ints,
    events: Floats,
    held: Ints,
    gauges: Floats,
    hardware: Floats,
    observed: Floats,
    arrival: Floats,
    available: Ints,
    memory: Floats,
    draws: Floats,
) -> bool:
    """Place the request of the pending decision on `replica`. Adds to `cost`, float64[COST_PARTS], what that costs all
    requests, with their true output lengths (vidur.engine.foresight). False: it was refused, and nothing is placed.
    """
    request = cluster[CURRENT]
    if not foresee(
        replica, request, True, policy, objectives, projected, cost, next_time, times, requests, replicas,
        replica_floats, ready, batch_requests, batch_tokens, batches, busy, groups, prefill_overhead, token_times,
        decode_times, prefill_times, cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints,
        member_offsets, members, send_times, stage_ends, stage_state, followers, batch_times,
    ):  # fmt: skip
        return False
    place(request, replica, next_time, times, requests, replicas, replica_floats, ledger, cluster, cluster_floats)
    state[PENDING] = 0
    return True


@allocating_kernel
def advance(
    policy: int,
    state: Ints,
    objectives: Floats,
    projected: Floats,
    next_time: Floats,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    busy: Floats,
    groups: Ints,
    prefill_overhead: Floats,
    token_times: Floats,
    decode_times: Floats,
    prefill_times: Floats,
    cpu_times: Floats,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
    cluster_floats: Floats,
    row_floats: Floats,
    row_ints: NDArray[Any],
    member_offsets: Ints,
    members: Ints,
    send_times: Floats,
    stage_ends: Floats,
    stage_state: Ints,
    followers: Ints,
    batch_times: Floats,
    sessions: Ints,
    events: Floats,
    held: Ints,
    gauges: Floats,
    hardware: Floats,
    observed: Floats,
    arrival: Floats,
    available: Ints,
    memory: Floats,
    draws: Floats,
) -> int:
    """Run up to the next decision, unless one is pending. Returns the engine's status: DECISION, DONE, or an error."""
    if state[PENDING] != 0:
        return DECISION
    status = YIELD
    while status == YIELD:
        status = run(
            policy, 0, _STEPS, next_time, times, requests, replicas, replica_floats, ready, batch_requests,
            batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times, prefill_times,
            cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints, member_offsets, members,
            send_times, stage_ends, stage_state, followers, batch_times, sessions, events, held, gauges, hardware,
            observed, arrival, available, memory, draws,
        )  # fmt: skip
    if status != DECISION:
        return status
    state[PENDING] = 1
    if cluster[NEXT_EVENT] != state[EVENTS]:
        # What an event changed is not the doing of the next placement.
        state[EVENTS] = cluster[NEXT_EVENT]
        unused = np.zeros(COST_PARTS)
        for replica in range(len(replicas)):
            foresee(
                replica, -1, True, policy, objectives, projected, unused, next_time, times, requests, replicas,
                replica_floats, ready, batch_requests, batch_tokens, batches, busy, groups, prefill_overhead,
                token_times, decode_times, prefill_times, cpu_times, ledger, completions, cluster, cluster_floats,
                row_floats, row_ints, member_offsets, members, send_times, stage_ends, stage_state, followers,
                batch_times,
            )  # fmt: skip
    return DECISION


@allocating_kernel
def step(
    replica: int,
    policy: int,
    beta: float,
    state: Ints,
    objectives: Floats,
    projected: Floats,
    cost: Floats,
    seen: NDArray[np.float32],
    mask: NDArray[np.bool_],
    next_time: Floats,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    ready: Ints,
    batch_requests: Ints,
    batch_tokens: Ints,
    batches: Ints,
    busy: Floats,
    groups: Ints,
    prefill_overhead: Floats,
    token_times: Floats,
    decode_times: Floats,
    prefill_times: Floats,
    cpu_times: Floats,
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
    cluster_floats: Floats,
    row_floats: Floats,
    row_ints: NDArray[Any],
    member_offsets: Ints,
    members: Ints,
    send_times: Floats,
    stage_ends: Floats,
    stage_state: Ints,
    followers: Ints,
    batch_times: Floats,
    sessions: Ints,
    events: Floats,
    held: Ints,
    gauges: Floats,
    hardware: Floats,
    observed: Floats,
    arrival: Floats,
    available: Ints,
    memory: Floats,
    draws: Floats,
) -> int:
    """`assign` (none at replica -1), then `advance`, then write what is seen. Returns the engine's status, or REFUSED.

    cost is overwritten. seen, float32[R * (F + 1) + G], and mask, bool[R], for the most replicas R that are stepped
    side by side: as StateEncoder.flatten lays them out, with zeros where there is no replica, or one that is away.
    At the end `seen` is 0.
    """
    cost[:] = 0.0
    if replica >= 0 and not assign(
        replica, policy, state, objectives, projected, cost, next_time, times, requests, replicas, replica_floats,
        ready, batch_requests, batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times,
        prefill_times, cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints, member_offsets,
        members, send_times, stage_ends, stage_state, followers, batch_times, sessions, events, held, gauges,
        hardware, observed, arrival, available, memory, draws,
    ):  # fmt: skip
        return REFUSED
    status = advance(
        policy, state, objectives, projected, next_time, times, requests, replicas, replica_floats, ready,
        batch_requests, batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times,
        prefill_times, cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints, member_offsets,
        members, send_times, stage_ends, stage_state, followers, batch_times, sessions, events, held, gauges,
        hardware, observed, arrival, available, memory, draws,
    )  # fmt: skip
    seen[:] = 0.0
    mask[:] = False
    if status != DECISION:
        return status
    num_replicas = len(available)
    columns = (len(seen) - CONTEXT) // len(mask) - 1
    x = np.empty((columns, num_replicas))
    facts = np.empty((FACTS, num_replicas))
    context = np.empty(CONTEXT)
    derive_facts(hardware, facts)
    encode_replicas(observed, gauges, facts, arrival, completions, x)
    encode_context(gauges, hardware, arrival, completions, beta, available.sum(), context)
    for number in range(num_replicas):
        if available[number] != 0:
            mask[number] = True
            begin = number * (columns + 1)
            seen[begin : begin + columns] = x[:, number]
            seen[begin + columns] = 1.0
    seen[len(mask) * (columns + 1) :] = context
    return DECISION
