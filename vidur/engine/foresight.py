"""What becomes of the requests of a replica if no more are placed on it: the engine run ahead, and put back.

With the true output lengths, which no router knows: for rewards, training labels and upper bounds.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.arrays import Floats, Ints
from vidur.engine.cluster import place
from vidur.engine.compile import allocating_kernel
from vidur.engine.layout import (
    ARRIVED,
    COMPLETED,
    FIRST_TOKEN,
    LEDGER_HEAD,
    LEDGER_NEXT,
    OUTPUT,
    STAGES,
)
from vidur.engine.pipeline import step_pipeline
from vidur.engine.replica import step_replica

# The parts of a cost, summed over requests: seconds, seconds, seconds squared, seconds of TTFT beyond its objective,
# requests whose TTFT, and whose TPOT, misses its objective.
COST_E2E, COST_TTFT, COST_TTFT_SQUARED, COST_TTFT_EXCESS, COST_TTFT_MISSED, COST_TPOT_MISSED = range(6)
COST_PARTS = 6


@allocating_kernel
def add_cost(
    sign: float, arrived: float, first: float, completed: float, output: int, objectives: Floats, costs: Floats
) -> None:
    """Add the parts of one request's cost, times `sign`, to `costs`. objectives: TTFT and TPOT, in seconds."""
    ttft = first - arrived
    tpot = (completed - first) / max(output - 1, 1)
    costs[COST_E2E] += sign * (completed - arrived)
    costs[COST_TTFT] += sign * ttft
    costs[COST_TTFT_SQUARED] += sign * ttft * ttft
    costs[COST_TTFT_EXCESS] += sign * max(0.0, ttft - objectives[0])
    if ttft > objectives[0]:
        costs[COST_TTFT_MISSED] += sign
    if tpot > objectives[1]:
        costs[COST_TPOT_MISSED] += sign


@allocating_kernel
def foresee(
    replica: int,
    arriving: int,
    keep: bool,
    policy: int,
    objectives: Floats,
    projected: Floats,
    costs: Floats,
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
    row_ints: Ints,
    member_offsets: Ints,
    members: Ints,
    send_times: Floats,
    stage_ends: Floats,
    stage_state: Ints,
    followers: Ints,
    batch_times: Floats,
) -> bool:
    """Add to `costs`, float64[COST_PARTS], by how much the cost of the replica's requests grows if request `arriving`
    (or none, at -1) is placed on it now: what becomes of them then, less what `projected` says.

    projected, float64[requests, 2]: when each outstanding request of the replica will have its first token and be
    complete; nan for one that is not placed. With `keep` it takes what was foreseen. The engine's state is what it
    was. False: a lookup beyond the tables, or a request that the replica refuses.
    """
    count = 0
    request = replicas[replica, LEDGER_HEAD]
    while request >= 0:
        count += 1
        request = requests[request, LEDGER_NEXT]
    chosen = np.empty(count + 1, np.int64)
    count = 0
    request = replicas[replica, LEDGER_HEAD]
    while request >= 0:
        chosen[count] = request
        count += 1
        request = requests[request, LEDGER_NEXT]
    if arriving >= 0:
        chosen[count] = arriving
        count += 1
    kept_times = np.empty((count, times.shape[1]))
    kept_requests = np.empty((count, requests.shape[1]), np.int64)
    for index in range(count):
        kept_times[index] = times[chosen[index]]
        kept_requests[index] = requests[chosen[index]]
    kept_next = next_time[replica]
    kept_replica = replicas[replica].copy()
    kept_floats = replica_floats[replica].copy()
    kept_ready = ready[replica].copy()
    kept_batch_requests = batch_requests[replica].copy()
    kept_batch_tokens = batch_tokens[replica].copy()
    kept_batches = batches[replica].copy()
    kept_busy = busy[replica].copy()
    kept_ledger = ledger[replica].copy()
    kept_cluster = cluster.copy()
    kept_cluster_floats = cluster_floats.copy()
    kept_stage_ends = stage_ends[replica].copy()
    kept_stage_state = stage_state[replica].copy()
    kept_batch_times = batch_times[replica].copy()
    unused = np.zeros_like(completions)

    fine = True
    if arriving >= 0:
        place(arriving, replica, next_time, times, requests, replicas, replica_floats, ledger, cluster, cluster_floats)
    while fine and next_time[replica] < np.inf:
        if replicas[replica, STAGES] == 1:
            fine = step_replica(
                replica, policy, next_time, times, requests, replicas, replica_floats, ready, batch_requests,
                batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times, prefill_times,
                cpu_times, ledger, unused, cluster, cluster_floats, row_floats[:0], row_ints[:0], member_offsets,
                members,
            )  # fmt: skip
        else:
            fine = step_pipeline(
                replica, policy, next_time, times, requests, replicas, replica_floats, ready, batch_requests,
                batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times, prefill_times,
                cpu_times, ledger, unused, cluster, cluster_floats, row_floats[:0], row_ints[:0], member_offsets,
                members, send_times, stage_ends, stage_state, followers, batch_times,
            )  # fmt: skip
    for index in range(count):
        request = chosen[index]
        first, completed = times[request, FIRST_TOKEN], times[request, COMPLETED]
        if math.isnan(completed):
            fine = False
            continue
        arrived, output = times[request, ARRIVED], requests[request, OUTPUT]
        add_cost(1.0, arrived, first, completed, output, objectives, costs)
        if not math.isnan(projected[request, 1]):
            add_cost(-1.0, arrived, projected[request, 0], projected[request, 1], output, objectives, costs)
        if keep:
            projected[request, 0] = first
            projected[request, 1] = completed

    for index in range(count):
        times[chosen[index]] = kept_times[index]
        requests[chosen[index]] = kept_requests[index]
    next_time[replica] = kept_next
    replicas[replica] = kept_replica
    replica_floats[replica] = kept_floats
    ready[replica] = kept_ready
    batch_requests[replica] = kept_batch_requests
    batch_tokens[replica] = kept_batch_tokens
    batches[replica] = kept_batches
    busy[replica] = kept_busy
    ledger[replica] = kept_ledger
    cluster[:] = kept_cluster
    cluster_floats[:] = kept_cluster_floats
    stage_ends[replica] = kept_stage_ends
    stage_state[replica] = kept_stage_state
    batch_times[replica] = kept_batch_times
    return fine
