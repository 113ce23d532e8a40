"""Decisions of the policy in one running simulation, compiled together with the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import rl.kernels.compiled
from rl.kernels.features import FACTS, derive_facts, encode_context, encode_replicas
from rl.kernels.scores import BETA, log_probability, sample, score
from vidur.engine.arrays import Floats, Ints
from vidur.engine.cluster import place, run
from vidur.engine.compile import allocating_kernel
from vidur.engine.foresight import foresee
from vidur.engine.layout import CURRENT, DECISION, DONE, NEXT_EVENT, NOW, ROWS_FULL, YIELD
from vidur.scheduler.observation import OUTSTANDING

__all__ = ["BY_COST", "BY_POLICY", "FAILED", "rl", "roll"]

# How a rollout decides: by the policy's probabilities, or by the least marginal cost with the true output lengths.
BY_POLICY, BY_COST = 0, 1

# What the state of a rollout holds, int64: whether a decision is pending; the timed events seen; whether the engine
# needs room for more rows before it can go on.
PENDING, EVENTS, SHORT_OF_ROWS = range(3)

# In place of a count of decisions: a lookup beyond the tables, or a request that its replica refuses.
FAILED = -1

_STEPS = 1 << 40


@allocating_kernel
def roll(
    begin: int,
    mode: int,
    labels: bool,
    policy: int,
    state: Ints,
    memory: Floats,
    weights: Floats,
    draws: Floats,
    objectives: Floats,
    projected: Floats,
    features: NDArray[np.float32],
    contexts: NDArray[np.float32],
    masks: NDArray[np.bool_],
    actions: Ints,
    log_probabilities: Floats,
    costs: Floats,
    all_costs: Floats,
    decided_at: Floats,
    outstanding: Floats,
    chosen_requests: Ints,
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
    sessions: Ints,
    events: Floats,
    held: Ints,
    gauges: Floats,
    hardware: Floats,
    observed: Floats,
    arrival: Floats,
    available: Ints,
    router_memory: Floats,
    router_draws: Floats,
) -> int:
    """Take len(actions) decisions, from row `begin` on, or fewer if the simulation ends or runs out of rows, and write
    each into its row. Returns how many rows are written.

    features, contexts and masks have one row more: what is seen at the decision after the last, if there is one.
    weights: float64[parts], by which BY_COST adds up the parts of a cost. labels: whether the costs of all replicas
    are written to all_costs, float64[decisions, replicas, parts]; inf in part 0 where one refuses. The rest: see
    rl.rollout and the engine.
    """
    num_replicas = len(available)
    x = np.empty((features.shape[2], num_replicas))
    facts = np.empty((FACTS, num_replicas))
    derive_facts(hardware, facts)
    context = np.empty(contexts.shape[1])
    scores = np.empty(num_replicas)
    unused = np.zeros(costs.shape[1])
    step = begin
    while True:
        if state[PENDING] == 0:
            status = YIELD
            while status == YIELD:
                status = run(
                    policy, 0, _STEPS, next_time, times, requests, replicas, replica_floats, ready, batch_requests,
                    batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times, prefill_times,
                    cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints, member_offsets,
                    members, send_times, stage_ends, stage_state, followers, batch_times, sessions, events, held,
                    gauges, hardware, observed, arrival, available, router_memory, router_draws,
                )  # fmt: skip
            if status == DONE:
                return step
            if status == ROWS_FULL:
                state[SHORT_OF_ROWS] = 1
                return step
            if status != DECISION:
                return FAILED
            state[PENDING] = 1
            if cluster[NEXT_EVENT] != state[EVENTS]:
                # What an event changed is not the doing of the next placement.
                state[EVENTS] = cluster[NEXT_EVENT]
                for replica in range(num_replicas):
                    foresee(
                        replica, -1, True, policy, objectives, projected, unused, next_time, times, requests,
                        replicas, replica_floats, ready, batch_requests, batch_tokens, batches, busy, groups,
                        prefill_overhead, token_times, decode_times, prefill_times, cpu_times, ledger, completions,
                        cluster, cluster_floats, row_floats, row_ints, member_offsets, members, send_times,
                        stage_ends, stage_state, followers, batch_times,
                    )  # fmt: skip
        encode_replicas(observed, gauges, facts, arrival, completions, x)
        encode_context(gauges, hardware, arrival, completions, memory[BETA], available.sum(), context)
        for replica in range(num_replicas):
            masks[step, replica] = available[replica] != 0
            for column in range(features.shape[2]):
                features[step, replica, column] = x[column, replica]
        for column in range(len(context)):
            contexts[step, column] = context[column]
        decided_at[step] = cluster_floats[NOW]
        if step == len(actions):
            return step

        request = cluster[CURRENT]
        if labels:
            for replica in range(num_replicas):
                all_costs[step, replica] = 0.0
                fine = available[replica] != 0 and foresee(
                    replica, request, False, policy, objectives, projected, all_costs[step, replica], next_time,
                    times, requests, replicas, replica_floats, ready, batch_requests, batch_tokens, batches, busy,
                    groups, prefill_overhead, token_times, decode_times, prefill_times, cpu_times, ledger,
                    completions, cluster, cluster_floats, row_floats, row_ints, member_offsets, members, send_times,
                    stage_ends, stage_state, followers, batch_times,
                )  # fmt: skip
                if not fine:
                    all_costs[step, replica, 0] = np.inf
        score(x, context, available, memory, scores)
        action = sample(scores, draws[step])
        if mode == BY_COST:
            least = np.inf
            for replica in range(num_replicas):
                cost = (all_costs[step, replica] * weights).sum()
                if cost < least:
                    least = cost
                    action = replica
        actions[step] = action
        log_probabilities[step] = log_probability(scores, action)
        chosen_requests[step] = request
        for replica in range(num_replicas):
            outstanding[step, replica] = observed[replica, OUTSTANDING]
        costs[step] = 0.0
        if not foresee(
            action, request, True, policy, objectives, projected, costs[step], next_time, times, requests, replicas,
            replica_floats, ready, batch_requests, batch_tokens, batches, busy, groups, prefill_overhead, token_times,
            decode_times, prefill_times, cpu_times, ledger, completions, cluster, cluster_floats, row_floats,
            row_ints, member_offsets, members, send_times, stage_ends, stage_state, followers, batch_times,
        ):  # fmt: skip
            return FAILED
        place(request, action, next_time, times, requests, replicas, replica_floats, ledger, cluster, cluster_floats)
        state[PENDING] = 0
        step += 1
