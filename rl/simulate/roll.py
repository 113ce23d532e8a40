"""Roll out a policy in a running simulation, compiled with the engine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl.router.compiled import score_callback
from rl.router.features import FACTS, derive_facts
from rl.router.scores import BETA, log_probability, sample
from rl.simulate.step import REFUSED, Handles, advance, assign, foresee_by_handle, look
from vidur.engine.cluster import DECISION
from vidur.engine.compile import allocating_kernel
from vidur.engine.state import Floats, Ints, open_state
from vidur.observation import OUTSTANDING

# The mode of a rollout: sample from the policy, or take the least marginal cost with the true output lengths.
BY_POLICY, BY_COST = 0, 1

score_by_handle = score_callback.call


class Recorded(NamedTuple):
    """The arrays of rl.simulate.rollout.Rollout, into which each decision is written as one row.

    features, contexts, masks and decided_at have one more row, for the decision after the last.
    """

    features: NDArray[np.float32]
    contexts: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: Ints
    log_probabilities: Floats
    costs: Floats
    all_costs: Floats
    decided_at: Floats
    outstanding: Floats
    requests: Ints


@allocating_kernel
def costs_of_all(
    request: int, handles: Handles, objectives: Floats, projected: Floats, costs: Floats, address: int
) -> None:
    """Write the request's cost on each replica into `costs`, float64[replicas, COST_PARTS].

    Part 0 is inf where the replica is unavailable or refuses the request.
    """
    s = open_state(address)
    for replica in range(len(costs)):
        costs[replica] = 0.0
        ok = s.books.available[replica] != 0 and foresee_by_handle(
            handles.foresee, (s, replica, request, False, handles.batcher, objectives, projected, costs[replica])
        )
        if not ok:
            costs[replica, 0] = np.inf


@allocating_kernel
def roll(
    begin: int, mode: int, handles: Handles, marks: Ints, memory: Floats, weights: Floats, draws: Floats,
    objectives: Floats, projected: Floats, recorded: Recorded, address: int,
) -> tuple[int, int]:  # fmt: skip
    """Decide and record from row `begin` on, until the rows are full or the simulation stops.

    Returns the number of rows written, and DECISION if they are full, REFUSED, or the engine's status: DONE, ROWS_FULL
    (call again with more room), TABLE_MISS. weights: float64[COST_PARTS], of the parts of a cost under BY_COST. The
    costs of all choices are recorded if `recorded` has rows for them.
    """
    s = open_state(address)
    num_replicas = len(s.books.available)
    features, contexts = recorded.features, recorded.contexts
    x = np.empty((features.shape[2], num_replicas))
    facts = np.empty((FACTS, num_replicas))
    context = np.empty(contexts.shape[1])
    scores = np.empty(num_replicas)
    derive_facts(s.books.hardware, facts)
    step = begin
    while True:
        status = advance(handles, marks, objectives, projected, address)
        if status != DECISION:
            return step, status
        look(handles, memory[BETA], facts, x, context, s)
        features[step] = x.T
        contexts[step] = context
        recorded.masks[step] = s.books.available != 0
        recorded.decided_at[step] = s.clock[0].now
        if step == len(recorded.actions):
            return step, status

        request = s.clock[0].current
        if len(recorded.all_costs) > 0:
            costs_of_all(request, handles, objectives, projected, recorded.all_costs[step], address)
        score_by_handle(handles.score, (x, context, s.books.available, memory, scores))
        action = sample(scores, draws[step])
        if mode == BY_COST:
            least = np.inf
            for replica in range(num_replicas):
                cost = (recorded.all_costs[step, replica] * weights).sum()
                if cost < least:
                    least = cost
                    action = replica
        recorded.actions[step] = action
        recorded.log_probabilities[step] = log_probability(scores, action)
        recorded.requests[step] = request
        recorded.outstanding[step] = s.books.observed[:, OUTSTANDING]
        recorded.costs[step] = 0.0
        if not assign(action, handles, marks, objectives, projected, recorded.costs[step], address):
            return step, REFUSED
        step += 1
