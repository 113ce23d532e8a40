"""Run one replica ahead without further arrivals, then restore the state.

Uses the true output lengths, which no router knows: for rewards, training labels and upper bounds only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vidur.engine.cluster import place_request
from vidur.engine.compile import allocating_kernel
from vidur.engine.pipeline import step_pipeline
from vidur.engine.replica import step_replica
from vidur.engine.state import (
    Batch,
    Block,
    Clock,
    Floats,
    Ints,
    Member,
    Pool,
    Prefix,
    Records,
    Replica,
    Request,
    Shorts,
    Stage,
    State,
)

# The parts of a cost, summed over requests: E2E, TTFT, TTFT squared, TTFT beyond its objective, in seconds; numbers
# of requests that miss the TTFT and the TPOT objective.
COST_E2E, COST_TTFT, COST_TTFT_SQUARED, COST_TTFT_EXCESS, COST_TTFT_MISSED, COST_TPOT_MISSED = range(6)
COST_PARTS = 6


class Saved(NamedTuple):
    """A copy of everything that running one replica without recording changes; `numbers` are its requests."""

    numbers: Ints
    requests: Records[Request]
    replica: Records[Replica]
    next_time: float
    ready: Ints
    batches: Records[Batch]
    members: Records[Member]
    stages: Records[Stage]
    stage_queue: Ints
    clock: Records[Clock]
    ledger: Floats
    completions: Floats
    routed: Ints
    prefixes: Records[Prefix]
    pool: Records[Pool]
    blocks: Records[Block]
    slots: Shorts
    tables: Shorts
    free_tables: Shorts


@allocating_kernel
def requests_on(s: State, replica: int, arriving: int) -> Ints:
    """Return the outstanding requests of the replica in placement order, then `arriving` unless it is -1."""
    count = 1 if arriving >= 0 else 0
    request = s.replicas[replica].ledger_head
    while request >= 0:
        count += 1
        request = s.requests[request].ledger_next
    chosen = np.full(count, arriving)
    count = 0
    request = s.replicas[replica].ledger_head
    while request >= 0:
        chosen[count] = request
        count += 1
        request = s.requests[request].ledger_next
    return chosen


@allocating_kernel
def save_replica(s: State, replica: int, numbers: Ints) -> Saved:
    """Copy everything that running `replica` changes when `numbers` are its only requests."""
    rows = len(numbers)
    requests = s.requests[:rows].copy()
    for i in range(rows):
        requests[i : i + 1] = s.requests[numbers[i] : numbers[i] + 1]
    caching = s.replicas[replica].caching == 1
    prefixes = s.prefixes[: rows if caching else 0].copy()
    for i in range(len(prefixes)):
        prefixes[i : i + 1] = s.prefixes[numbers[i] : numbers[i] + 1]
    first, last = replica, replica + 1 if caching else replica
    return Saved(
        numbers,
        requests,
        s.replicas[replica : replica + 1].copy(),
        s.next_time[replica],
        s.ready[replica].copy(),
        s.batches[replica : replica + 1].copy(),
        s.members[replica : replica + 1].copy(),
        s.stages[replica : replica + 1].copy(),
        s.stage_queue[replica].copy(),
        s.clock.copy(),
        s.books.ledger[replica].copy(),
        s.books.completions.copy(),
        s.books.routed.copy(),
        prefixes,
        s.cache.pools[first:last].copy(),
        s.cache.blocks[first:last].copy(),
        s.cache.slots[first:last].copy(),
        s.cache.tables[first:last].copy(),
        s.cache.free_tables[first:last].copy(),
    )


@allocating_kernel
def restore_replica(s: State, replica: int, saved: Saved) -> None:
    """Restore what `save_replica` copied."""
    for i in range(len(saved.numbers)):
        s.requests[saved.numbers[i] : saved.numbers[i] + 1] = saved.requests[i : i + 1]
    s.replicas[replica : replica + 1] = saved.replica
    s.next_time[replica] = saved.next_time
    s.ready[replica] = saved.ready
    s.batches[replica : replica + 1] = saved.batches
    s.members[replica : replica + 1] = saved.members
    s.stages[replica : replica + 1] = saved.stages
    s.stage_queue[replica] = saved.stage_queue
    s.clock[:] = saved.clock
    s.books.ledger[replica] = saved.ledger
    s.books.completions[:] = saved.completions
    s.books.routed[:] = saved.routed
    for i in range(len(saved.prefixes)):
        s.prefixes[saved.numbers[i] : saved.numbers[i] + 1] = saved.prefixes[i : i + 1]
    last = replica + len(saved.pool)
    s.cache.pools[replica:last] = saved.pool
    s.cache.blocks[replica:last] = saved.blocks
    s.cache.slots[replica:last] = saved.slots
    s.cache.tables[replica:last] = saved.tables
    s.cache.free_tables[replica:last] = saved.free_tables


@allocating_kernel
def add_cost(sign: float, request: Request, first: float, completed: float, objectives: Floats, costs: Floats) -> None:
    """Add `sign` times the cost of a request with first token at `first` and end at `completed` to `costs`.

    objectives: TTFT and TPOT in seconds.
    """
    ttft = first - request.arrived_at
    tpot = (completed - first) / max(request.output - 1, 1)
    costs[COST_E2E] += sign * (completed - request.arrived_at)
    costs[COST_TTFT] += sign * ttft
    costs[COST_TTFT_SQUARED] += sign * ttft * ttft
    costs[COST_TTFT_EXCESS] += sign * max(0.0, ttft - objectives[0])
    if ttft > objectives[0]:
        costs[COST_TTFT_MISSED] += sign
    if tpot > objectives[1]:
        costs[COST_TPOT_MISSED] += sign


@allocating_kernel
def run_empty(s: State, replica: int, batcher: int) -> bool:
    """Run the replica until it is idle, without recording. Returns False on a lookup beyond the tables."""
    s.clock[0].records = 0
    ok = True
    while ok and s.next_time[replica] < np.inf:
        if s.replicas[replica].stages == 1:
            ok = step_replica(s, replica, batcher)
        else:
            ok = step_pipeline(s, replica, batcher)
    return ok


@allocating_kernel
def foresee(
    s: State, replica: int, arriving: int, keep: bool, batcher: int, objectives: Floats, projected: Floats,
    costs: Floats,
) -> bool:  # fmt: skip
    """Add to `costs` how much the cost of the replica's requests grows if `arriving` (-1: none) is placed there now.

    The growth is the cost of running the replica ahead minus the cost that `projected` gives. projected,
    float64[requests, 2]: times of the first token and the end of each outstanding request; nan if not placed. `keep`
    stores the new times there. The engine's state is restored. costs: float64[COST_PARTS]. Returns False on a lookup
    beyond the tables, or if the replica refuses the request.
    """
    numbers = requests_on(s, replica, arriving)
    saved = save_replica(s, replica, numbers)
    # Neither indexes nor later turns may see what happens in the run ahead.
    s.clock[0].foreseeing = 1
    s.clock[0].kv_events = 0
    if arriving >= 0:
        place_request(s, arriving, replica)
    ok = run_empty(s, replica, batcher)
    for number in numbers:
        request = s.requests[number]
        first, completed = request.first_token_at, request.completed_at
        if math.isnan(completed):
            ok = False
            continue
        add_cost(1.0, request, first, completed, objectives, costs)
        if not math.isnan(projected[number, 1]):
            add_cost(-1.0, request, projected[number, 0], projected[number, 1], objectives, costs)
        if keep:
            projected[number, 0] = first
            projected[number, 1] = completed
    restore_replica(s, replica, saved)
    return ok
