"""Step a simulation from one routing decision to the next, compiled with the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import rl.router.compiled  # noqa: F401
from rl.router.features import CONTEXT, FACTS, derive_facts, encode_state
from vidur.engine.cluster import DECISION, YIELD, place, run
from vidur.engine.compile import allocating_kernel
from vidur.engine.foresight import COST_PARTS, foresee
from vidur.engine.state import Floats, Ints, State, open_state

# Fields of `marks`, int64, kept beside the engine's state: whether a decision is pending; the timed events seen so far.
PENDING, EVENTS = range(2)
MARKS = 2

# Beside the engine's statuses: the replica can never hold the request, or a lookup is beyond the tables.
REFUSED = -1

_STEPS = 1 << 40


@allocating_kernel
def assign(
    replica: int, batcher: int, marks: Ints, objectives: Floats, projected: Floats, cost: Floats, address: int
) -> bool:
    """Place the pending request on `replica`, and add what that costs all requests to `cost`, float64[COST_PARTS].

    The cost takes the true output lengths (vidur.engine.foresight). Returns False, with nothing placed, if the replica
    refuses the request.
    """
    s = open_state(address)
    request = s.clock[0].current
    if not foresee(s, replica, request, True, batcher, objectives, projected, cost):
        return False
    place(request, replica, address)
    marks[PENDING] = 0
    return True


@allocating_kernel
def advance(batcher: int, marks: Ints, objectives: Floats, projected: Floats, address: int) -> int:
    """Run to the next decision, unless one is pending, and return the engine's status: DECISION, DONE, or an error."""
    s = open_state(address)
    if marks[PENDING] != 0:
        return DECISION
    status = YIELD
    while status == YIELD:
        status = run(batcher, 0, _STEPS, address)
    if status != DECISION:
        return status
    marks[PENDING] = 1
    if s.clock[0].events_seen != marks[EVENTS]:
        # Project again after an event, so that its effect is not credited to the next action.
        marks[EVENTS] = s.clock[0].events_seen
        unused = np.zeros(COST_PARTS)
        for replica in range(len(s.replicas)):
            foresee(s, replica, -1, True, batcher, objectives, projected, unused)
    return DECISION


@allocating_kernel
def look(beta: float, facts: Floats, x: Floats, context: Floats, s: State) -> None:
    """Encode the observation of the pending decision into `x` and `context` (rl.router.features.encode_state)."""
    books = s.books
    encode_state(
        books.observed, books.gauges, facts, books.arrival, books.completions[0], beta, books.available.sum(), x,
        context,
    )  # fmt: skip


@allocating_kernel
def step(
    replica: int, batcher: int, beta: float, marks: Ints, objectives: Floats, projected: Floats, cost: Floats,
    seen: NDArray[np.float32], mask: NDArray[np.bool_], address: int,
) -> int:  # fmt: skip
    """`assign` (unless replica is -1), `advance`, and encode. Returns the engine's status, or REFUSED.

    Adds to `cost`; overwrites seen, float32[R * (F + 1) + G], as StateEncoder.flatten lays it out, and mask, bool[R]. R
    may exceed the number of replicas. Absent and unavailable replicas are 0, and all of `seen` is 0 at the end.
    """
    s = open_state(address)
    if replica >= 0 and not assign(replica, batcher, marks, objectives, projected, cost, address):
        return REFUSED
    status = advance(batcher, marks, objectives, projected, address)
    seen[:] = 0.0
    mask[:] = False
    if status != DECISION:
        return status
    num_replicas = len(s.books.available)
    columns = (len(seen) - CONTEXT) // len(mask) - 1
    x = np.empty((columns, num_replicas))
    facts = np.empty((FACTS, num_replicas))
    context = np.empty(CONTEXT)
    derive_facts(s.books.hardware, facts)
    look(beta, facts, x, context, s)
    for i in range(num_replicas):
        if s.books.available[i] != 0:
            mask[i] = True
            begin = i * (columns + 1)
            seen[begin : begin + columns] = x[:, i]
            seen[begin + columns] = 1.0
    seen[len(mask) * (columns + 1) :] = context
    return DECISION
