"""What becomes of the requests of a replica if no more are placed on it: the engine run ahead, and put back.

With the true output lengths, which no router knows: for rewards, training labels and upper bounds.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.arrays import Arrays, Floats, Ints
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
def place_on(replica: int, request: int, arrays: Arrays) -> None:
    """Give `request` to `replica` (vidur.engine.cluster.place)."""
    place(
        request, replica, arrays.next_time, arrays.times, arrays.requests, arrays.replicas, arrays.replica_floats,
        arrays.ledger, arrays.cluster, arrays.cluster_floats,
    )  # fmt: skip


@allocating_kernel
def requests_on(replica: int, arriving: int, arrays: Arrays) -> Ints:
    """The outstanding requests of the replica in the order they were placed, then `arriving` if it is one."""
    count = 1 if arriving >= 0 else 0
    request = arrays.replicas[replica, LEDGER_HEAD]
    while request >= 0:
        count += 1
        request = arrays.requests[request, LEDGER_NEXT]
    chosen = np.full(count, arriving)
    count = 0
    request = arrays.replicas[replica, LEDGER_HEAD]
    while request >= 0:
        chosen[count] = request
        count += 1
        request = arrays.requests[request, LEDGER_NEXT]
    return chosen


@allocating_kernel
def run_empty(replica: int, policy: int, arrays: Arrays) -> bool:
    """Run the replica until it has nothing left to do; records nothing. False: a lookup beyond the tables."""
    unused = np.zeros_like(arrays.completions)
    no_floats, no_ints = arrays.row_floats[:0], arrays.row_ints[:0]
    fine = True
    while fine and arrays.next_time[replica] < np.inf:
        if arrays.replicas[replica, STAGES] == 1:
            fine = step_replica(
                replica, policy, arrays.next_time, arrays.times, arrays.requests, arrays.replicas,
                arrays.replica_floats, arrays.ready, arrays.batch_requests, arrays.batch_tokens, arrays.batches,
                arrays.busy, arrays.groups, arrays.prefill_overhead, arrays.token_times, arrays.decode_times,
                arrays.prefill_times, arrays.cpu_times, arrays.ledger, unused, arrays.cluster, arrays.cluster_floats,
                no_floats, no_ints, arrays.member_offsets, arrays.members,
            )  # fmt: skip
        else:
            fine = step_pipeline(
                replica, policy, arrays.next_time, arrays.times, arrays.requests, arrays.replicas,
                arrays.replica_floats, arrays.ready, arrays.batch_requests, arrays.batch_tokens, arrays.batches,
                arrays.busy, arrays.groups, arrays.prefill_overhead, arrays.token_times, arrays.decode_times,
                arrays.prefill_times, arrays.cpu_times, arrays.ledger, unused, arrays.cluster, arrays.cluster_floats,
                no_floats, no_ints, arrays.member_offsets, arrays.members, arrays.send_times, arrays.stage_ends,
                arrays.stage_state, arrays.followers, arrays.batch_times,
            )  # fmt: skip
    return fine


@allocating_kernel
def foresee(
    replica: int, arriving: int, keep: bool, policy: int, objectives: Floats, projected: Floats, costs: Floats,
    arrays: Arrays,
) -> bool:  # fmt: skip
    """Add to `costs`, float64[COST_PARTS], by how much the cost of the replica's requests grows if request `arriving`
    (or none, at -1) is placed on it now: what becomes of them then, less what `projected` says.

    projected, float64[requests, 2]: when each outstanding request of the replica will have its first token and be
    complete; nan for one that is not placed. With `keep` it takes what was foreseen. The engine's state is what it
    was. False: a lookup beyond the tables, or a request that the replica refuses.
    """
    times, requests = arrays.times, arrays.requests
    chosen = requests_on(replica, arriving, arrays)
    # All that running one replica changes.
    kept_times = np.empty((len(chosen), times.shape[1]))
    kept_requests = np.empty((len(chosen), requests.shape[1]), np.int64)
    for index in range(len(chosen)):
        kept_times[index] = times[chosen[index]]
        kept_requests[index] = requests[chosen[index]]
    kept_next = arrays.next_time[replica]
    kept_replica = arrays.replicas[replica].copy()
    kept_floats = arrays.replica_floats[replica].copy()
    kept_ready = arrays.ready[replica].copy()
    kept_batch_requests = arrays.batch_requests[replica].copy()
    kept_batch_tokens = arrays.batch_tokens[replica].copy()
    kept_batches = arrays.batches[replica].copy()
    kept_busy = arrays.busy[replica].copy()
    kept_ledger = arrays.ledger[replica].copy()
    kept_cluster = arrays.cluster.copy()
    kept_cluster_floats = arrays.cluster_floats.copy()
    kept_stage_ends = arrays.stage_ends[replica].copy()
    kept_stage_state = arrays.stage_state[replica].copy()
    kept_batch_times = arrays.batch_times[replica].copy()

    if arriving >= 0:
        place_on(replica, arriving, arrays)
    fine = run_empty(replica, policy, arrays)
    for request in chosen:
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

    for index in range(len(chosen)):
        times[chosen[index]] = kept_times[index]
        requests[chosen[index]] = kept_requests[index]
    arrays.next_time[replica] = kept_next
    arrays.replicas[replica] = kept_replica
    arrays.replica_floats[replica] = kept_floats
    arrays.ready[replica] = kept_ready
    arrays.batch_requests[replica] = kept_batch_requests
    arrays.batch_tokens[replica] = kept_batch_tokens
    arrays.batches[replica] = kept_batches
    arrays.busy[replica] = kept_busy
    arrays.ledger[replica] = kept_ledger
    arrays.cluster[:] = kept_cluster
    arrays.cluster_floats[:] = kept_cluster_floats
    arrays.stage_ends[replica] = kept_stage_ends
    arrays.stage_state[replica] = kept_stage_state
    arrays.batch_times[replica] = kept_batch_times
    return fine
