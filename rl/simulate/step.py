"""One decision at a time: a placement in, what is seen at the next decision out. Compiled together with the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import rl.router.compiled  # noqa: F401
from rl.router.features import CONTEXT, FACTS, derive_facts, encode_state
from vidur.engine.arrays import Arrays, Floats, Ints
from vidur.engine.cluster import run
from vidur.engine.compile import allocating_kernel
from vidur.engine.foresight import COST_PARTS, foresee, place_on
from vidur.engine.layout import CURRENT, DECISION, NEXT_EVENT, YIELD

# What is kept beside the engine's arrays, int64: whether a decision is pending; the timed events seen.
PENDING, EVENTS = range(2)
STATE = 2

# In place of a status of the engine: the replica can never hold the request, or a lookup is beyond the tables.
REFUSED = -1

_STEPS = 1 << 40


@allocating_kernel
def assign(
    replica: int, policy: int, state: Ints, objectives: Floats, projected: Floats, cost: Floats, arrays: Arrays
) -> bool:
    """Place the request of the pending decision on `replica`. Adds to `cost`, float64[COST_PARTS], what that costs all
    requests, with their true output lengths (vidur.engine.foresight). False: it was refused, and nothing is placed.
    """
    request = arrays.cluster[CURRENT]
    if not foresee(replica, request, True, policy, objectives, projected, cost, arrays):
        return False
    place_on(replica, request, arrays)
    state[PENDING] = 0
    return True


@allocating_kernel
def advance(policy: int, state: Ints, objectives: Floats, projected: Floats, arrays: Arrays) -> int:
    """Run up to the next decision, unless one is pending. Returns the engine's status: DECISION, DONE, or an error."""
    if state[PENDING] != 0:
        return DECISION
    status = YIELD
    while status == YIELD:
        # The slice makes a plain tuple: Numba unpacks no named one after other arguments.
        status = run(policy, 0, _STEPS, *arrays[:])
    if status != DECISION:
        return status
    state[PENDING] = 1
    if arrays.cluster[NEXT_EVENT] != state[EVENTS]:
        # What an event changed is not the doing of the next placement.
        state[EVENTS] = arrays.cluster[NEXT_EVENT]
        unused = np.zeros(COST_PARTS)
        for replica in range(len(arrays.replicas)):
            foresee(replica, -1, True, policy, objectives, projected, unused, arrays)
    return DECISION


@allocating_kernel
def look(beta: float, facts: Floats, x: Floats, context: Floats, arrays: Arrays) -> None:
    """Encode what is seen at the pending decision: rl.router.features. facts: of the cluster's hardware."""
    encode_state(
        arrays.observed, arrays.gauges, facts, arrays.arrival, arrays.completions[0], beta, arrays.available.sum(),
        x, context,
    )  # fmt: skip


@allocating_kernel
def step(
    replica: int, policy: int, beta: float, state: Ints, objectives: Floats, projected: Floats, cost: Floats,
    seen: NDArray[np.float32], mask: NDArray[np.bool_], arrays: Arrays,
) -> int:  # fmt: skip
    """`assign` (none at replica -1), then `advance`, then write what is seen. Returns the engine's status, or REFUSED.

    Adds to `cost`. seen, float32[R * (F + 1) + G], and mask, bool[R], for the most replicas R that are stepped
    side by side: as StateEncoder.flatten lays them out, with zeros where there is no replica, or one that is away.
    At the end `seen` is 0.
    """
    if replica >= 0 and not assign(replica, policy, state, objectives, projected, cost, arrays):
        return REFUSED
    status = advance(policy, state, objectives, projected, arrays)
    seen[:] = 0.0
    mask[:] = False
    if status != DECISION:
        return status
    num_replicas = len(arrays.available)
    columns = (len(seen) - CONTEXT) // len(mask) - 1
    x = np.empty((columns, num_replicas))
    facts = np.empty((FACTS, num_replicas))
    context = np.empty(CONTEXT)
    derive_facts(arrays.hardware, facts)
    look(beta, facts, x, context, arrays)
    for number in range(num_replicas):
        if arrays.available[number] != 0:
            mask[number] = True
            begin = number * (columns + 1)
            seen[begin : begin + columns] = x[:, number]
            seen[begin + columns] = 1.0
    seen[len(mask) * (columns + 1) :] = context
    return DECISION
