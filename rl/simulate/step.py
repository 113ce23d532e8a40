"""Step a simulation from one routing decision to the next, compiled with the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from rl.router.compiled import encode_callback, score_callback
from rl.router.features import CONTEXT, FACTS, derive_facts, encode_state
from rl.router.scores import score
from vidur.engine.callback import Callback
from vidur.engine.cluster import DECISION, YIELD, place, run
from vidur.engine.compile import allocating_kernel
from vidur.engine.foresight import COST_PARTS, foresee
from vidur.engine.plug import form_batch_callback
from vidur.engine.state import STATE, Floats, Ints, State, open_state

# Fields of `marks`, int64, kept beside the engine's state: whether a decision is pending; the timed events seen so far.
PENDING, EVENTS = range(2)
MARKS = 2

# Beside the engine's statuses: the replica can never hold the request, or a lookup is beyond the tables.
REFUSED = -1

_STEPS = 1 << 40

run_callback = Callback(types.int64, types.int64, types.int64, types.int64, types.int64)
_ROW = types.Array(types.float64, 1, "C")
foresee_callback = Callback(
    types.boolean, STATE, types.int64, types.int64, types.boolean, types.int64, _ROW,
    types.Array(types.float64, 2, "C"), _ROW,
)  # fmt: skip
run_by_handle, foresee_by_handle, encode_by_handle = run_callback.call, foresee_callback.call, encode_callback.call


class Handles(NamedTuple):
    """Handles of what these kernels call: compiled once, as it is large, and not into each of them."""

    batcher: int
    run: int
    foresee: int
    encode: int
    score: int

    @classmethod
    def of(cls, form_batch: Callable[..., Any]) -> Handles:
        return cls(
            form_batch_callback.handle(form_batch), run_callback.handle(run), foresee_callback.handle(foresee),
            encode_callback.handle(encode_state), score_callback.handle(score),
        )  # fmt: skip


@allocating_kernel
def assign(
    replica: int, handles: Handles, marks: Ints, objectives: Floats, projected: Floats, cost: Floats, address: int
) -> bool:
    """Place the pending request on `replica`, and add what that costs all requests to `cost`, float64[COST_PARTS].

    The cost takes the true output lengths (vidur.engine.foresight). Returns False, with nothing placed, if the replica
    refuses the request.
    """
    s = open_state(address)
    request = s.clock[0].current
    if not foresee_by_handle(
        handles.foresee, (s, replica, request, True, handles.batcher, objectives, projected, cost)
    ):
        return False
    place(request, replica, address)
    marks[PENDING] = 0
    return True


@allocating_kernel
def advance(handles: Handles, marks: Ints, objectives: Floats, projected: Floats, address: int) -> int:
    """Run to the next decision, unless one is pending, and return the engine's status: DECISION, DONE, or an error."""
    s = open_state(address)
    if marks[PENDING] != 0:
        return DECISION
    status = YIELD
    while status == YIELD:
        status = run_by_handle(handles.run, (handles.batcher, 0, _STEPS, address))
    if status != DECISION:
        return status
    marks[PENDING] = 1
    if s.clock[0].events_seen != marks[EVENTS]:
        # Project again after an event, so that its effect is not credited to the next action.
        marks[EVENTS] = s.clock[0].events_seen
        unused = np.zeros(COST_PARTS)
        for replica in range(len(s.replicas)):
            foresee_by_handle(handles.foresee, (s, replica, -1, True, handles.batcher, objectives, projected, unused))
    return DECISION


@allocating_kernel
def look(handles: Handles, beta: float, facts: Floats, x: Floats, context: Floats, s: State) -> None:
    """Encode the observation of the pending decision into `x` and `context` (rl.router.features.encode_state)."""
    books = s.books
    number = books.available.sum()
    encode_by_handle(
        handles.encode,
        (books.observed, books.gauges, facts, books.arrival, books.completions[0], beta, number, x, context),
    )


@allocating_kernel
def step(
    replica: int, handles: Handles, beta: float, marks: Ints, objectives: Floats, projected: Floats, cost: Floats,
    seen: NDArray[np.float32], mask: NDArray[np.bool_], address: int,
) -> int:  # fmt: skip
    """`assign` (unless replica is -1), `advance`, and encode. Returns the engine's status, or REFUSED.

    Adds to `cost`; overwrites seen, float32[R * (F + 1) + G], as StateEncoder.flatten lays it out, and mask, bool[R]. R
    may exceed the number of replicas. Absent and unavailable replicas are 0, and all of `seen` is 0 at the end.
    """
    s = open_state(address)
    if replica >= 0 and not assign(replica, handles, marks, objectives, projected, cost, address):
        return REFUSED
    status = advance(handles, marks, objectives, projected, address)
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
    look(handles, beta, facts, x, context, s)
    for i in range(num_replicas):
        if s.books.available[i] != 0:
            mask[i] = True
            begin = i * (columns + 1)
            seen[begin : begin + columns] = x[:, i]
            seen[begin + columns] = 1.0
    seen[len(mask) * (columns + 1) :] = context
    return DECISION
