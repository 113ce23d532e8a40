"""The main loop of the engine: arrivals, routing decisions, timed events and gauges.

Replicas affect each other only through routing, so each keeps its own clock. Before a decision at time t the engine
advances every replica that the router may look at to t: everything strictly before t happens first, and an arrival at t
goes before other events at t (upstream's order).
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.callback import hook_callback
from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.ledger import count_dropped, count_placed
from vidur.engine.pipeline import reset_pipeline, step_pipeline
from vidur.engine.plug import choose_callback
from vidur.engine.queues import enqueue
from vidur.engine.recording import REFUSED
from vidur.engine.replica import cut_run, ended_iterations, finish_run, step_replica
from vidur.engine.state import Floats, State, open_state
from vidur.engine.timers import ARRIVED, EVENT, GAUGES, REROUTED, earliest, pop, push
from vidur.engine.turns import route_later
from vidur.observation import (
    ARRIVAL_AGE,
    ARRIVAL_ORDINAL,
    ARRIVAL_PRIORITY,
    ARRIVAL_PROMPT,
    ARRIVAL_SESSION,
    AWAITING,
    AWAITING_TOKENS,
    FINISHED,
    GAUGE_AGE,
    GAUGE_KV_USAGE,
    GAUGE_PREEMPTIONS,
    GAUGE_RUNNING,
    GAUGE_WAITING,
    ITL_EWMA,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_AGE,
    QUEUE_COLUMNS,
    QUEUE_PROMPT,
    STREAMED_TOKENS,
    View,
)

choose = choose_callback.call
run_hook = hook_callback.call

# The statuses that `run` returns.
DONE, DECISION, YIELD, ROWS_FULL, TABLE_MISS = range(5)
# The actions of timed events.
SLOW, FAIL, RETURN, JOIN, DRAIN = range(5)

_ROWS_A_STEP = 64
_ADVANCED, _ARRIVAL = -1, -2
_NOT_CHOSEN = -1
_ROUNDING = 1e-9


@kernel
def place_request(s: State, request: int, replica: int) -> None:
    """Give `request` to `replica`, or refuse it if the replica can never hold it."""
    clock, row, placed = s.clock[0], s.replicas[replica], s.requests[request]
    placed.replica = replica
    s.books.routed[placed.router] += 1
    if placed.prompt + placed.output > row.max_request_tokens or placed.prompt > row.max_prompt_tokens:
        placed.status = REFUSED
        clock.num_refused += 1
        if clock.closed_loop == 1 and clock.foreseeing == 0:
            run_hook(s.hooks[0].refused, (0, request, 0, clock.now, s))
        return
    placed.placed_at = clock.now
    row.num_placed += 1
    count_placed(s, replica, request)
    if clock.indexed == 1 and clock.foreseeing == 0:
        run_hook(s.hooks[0].placed, (replica, request, 0, clock.now, s))
    is_first = enqueue(s, replica, request)
    if row.stages > 1:
        if row.in_flight < row.stages:
            row.schedule_at = clock.now
            s.next_time[replica] = min(s.next_time[replica], clock.now)
    elif row.in_flight == 0:
        s.next_time[replica] = min(s.next_time[replica], clock.now)
    elif is_first:
        cut_run(s, replica, clock.now)


@kernel
def place(request: int, replica: int, address: int) -> None:
    """`place_request`, for Python."""
    place_request(open_state(address), request, replica)


@cold_kernel
def read_gauges(s: State, now: float) -> None:
    """Read the gauges of every replica at `now`, to which all have been advanced."""
    gauges = s.books.gauges
    for replica in range(len(s.replicas)):
        row = s.replicas[replica]
        allocated = row.allocated
        if row.in_flight == 1 and row.run_count > 1 and row.grows == 1:
            done = ended_iterations(s, replica, now)
            for i in range(s.batches[replica, 0].num_requests):
                request = s.requests[s.members[replica, 0, i].request]
                allocated += max(0, -(-(request.processed + done) // row.block_size) - request.blocks)
        gauges[replica, GAUGE_RUNNING] = row.admitted
        gauges[replica, GAUGE_WAITING] = row.waiting
        gauges[replica, GAUGE_KV_USAGE] = allocated / row.num_blocks
        gauges[replica, GAUGE_PREEMPTIONS] = row.preemptions
    s.clock[0].gauges_at = now


@kernel
def next_request(s: State) -> int:
    """Pop the next request to route. If it arrives by the clock, queue the arrival after it."""
    clock = s.clock[0]
    request, kind = s.decisions[0].subject, s.decisions[0].kind
    pop(s.decisions, clock.num_decisions)
    clock.num_decisions -= 1
    if kind == ARRIVED and request == clock.next_arrival:
        clock.next_arrival += 1
        while clock.closed_loop == 1 and clock.next_arrival < clock.num_arrivals:
            if s.turns[clock.next_arrival].parents == 0:
                break
            clock.next_arrival += 1
        if clock.next_arrival < clock.num_arrivals:
            route_later(s, clock.next_arrival, s.requests[clock.next_arrival].arrived_at, ARRIVED)
    return request


@cold_kernel
def drop_refused(s: State) -> None:
    """Drop queued requests that were refused with their session."""
    while s.clock[0].num_decisions > 0 and s.requests[s.decisions[0].subject].status == REFUSED:
        run_hook(s.hooks[0].refused, (0, next_request(s), 0, s.clock[0].now, s))


@kernel
def abort_replica(s: State, replica: int) -> None:
    """Drop everything on a failed replica and route its requests again from the start, in placement order."""
    row = s.replicas[replica]
    while row.ledger_head >= 0:
        number = row.ledger_head
        request = s.requests[number]
        count_dropped(s, replica, number)
        if row.hold_until_batch_ends == 1 and request.blocks > 0:
            # A finished leader keeps the blocks of the members that finished before it.
            s.requests[request.leader].blocks = 0
        request.prefill = request.prompt
        request.processed = 0
        request.blocks = 0
        request.prefilled = 0
        request.streamed = 0
        request.leader = 0
        request.reroutes += 1
        request.scheduled_at = np.nan
        request.first_token_at = np.nan
        request.last_ended_at = 0.0
        if row.caching == 1:
            s.prefixes[number].cached = -1
        route_later(s, number, s.clock[0].now, REROUTED)
    row.wait_head = row.wait_tail = -1
    row.waiting = row.ready = row.admitted = row.in_flight = row.allocated = 0
    if row.caching == 1 or s.clock[0].indexed == 1:
        run_hook(s.hooks[0].failed, (replica, 0, 0, s.clock[0].now, s))
    reset_pipeline(s, replica)
    row.schedule_at = np.inf
    s.next_time[replica] = np.inf


@cold_kernel
def apply_event(s: State, event: int) -> None:
    """Apply a timed event at the current time."""
    clock, replica, action = s.clock[0], s.events[event].replica, s.events[event].action
    row = s.replicas[replica]
    clock.events_seen += 1
    running = row.stages == 1 and row.in_flight > 0
    if running and action in (SLOW, FAIL):
        cut_run(s, replica, clock.now)
    if action == SLOW:
        row.slowdown = s.events[event].factor
        return
    up = 0 if action in (FAIL, DRAIN) else 1
    clock.num_available += up - s.books.available[replica]
    s.books.available[replica] = up
    if action != FAIL:
        return
    if running and row.run_count > 1:
        # Only the iteration in progress is lost.
        finish_run(s, replica, row.run_count - 1)
    abort_replica(s, replica)


@kernel
def describe_arrival(s: State, request: int, now: float) -> None:
    arrival, row = s.books.arrival, s.requests[request]
    arrival[ARRIVAL_PROMPT] = row.prompt
    arrival[ARRIVAL_AGE] = now - row.arrived_at
    arrival[ARRIVAL_PRIORITY] = row.priority
    arrival[ARRIVAL_SESSION] = row.session
    arrival[ARRIVAL_ORDINAL] = s.books.routed[row.router]


@kernel
def observe_ledger(s: State, now: float) -> None:
    """Copy the ledger to `observed`, adding tokens streamed by current runs and the requests awaiting a first token."""
    ledger, observed = s.books.ledger, s.books.observed
    depth = (observed.shape[1] - ledger.shape[1]) // QUEUE_COLUMNS
    for replica in range(len(s.replicas)):
        row = s.replicas[replica]
        for column in range(ledger.shape[1]):
            observed[replica, column] = ledger[replica, column]
        if row.in_flight > 0 and row.run_count > 1:
            observed[replica, STREAMED_TOKENS] += ended_iterations(s, replica, now) * s.batches[replica, 0].decode_size
        request = row.await_head
        for i in range(depth):
            age, prompt = 0.0, 0
            if request >= 0:
                age, prompt = now - s.requests[request].arrived_at, s.requests[request].prompt
                request = s.requests[request].await_next
            observed[replica, QUEUE_COLUMNS * i + QUEUE_AGE] = age
            observed[replica, QUEUE_COLUMNS * i + QUEUE_PROMPT] = prompt


@cold_kernel
def observe_own(s: State, router: int, now: float) -> None:
    """Set `observed` to one router's own ledger, counted from the requests that it placed.

    ITL_EWMA covers every stream of the replica, because all streams share the same iterations.
    """
    ledger, observed = s.books.ledger, s.books.observed
    depth = (observed.shape[1] - LEDGER_COLUMNS) // QUEUE_COLUMNS
    for replica in range(len(s.replicas)):
        row = s.replicas[replica]
        for column in range(observed.shape[1]):
            observed[replica, column] = 0.0
        observed[replica, FINISHED] = ledger[replica, LEDGER_COLUMNS + router]
        observed[replica, ITL_EWMA] = ledger[replica, ITL_EWMA]
        number = row.ledger_head
        while number >= 0:
            request = s.requests[number]
            if request.router == router:
                observed[replica, OUTSTANDING] += 1
                observed[replica, PROMPT_TOKENS] += request.prompt
                observed[replica, STREAMED_TOKENS] += request.streamed
            number = request.ledger_next
        if row.in_flight > 0 and row.run_count > 1:
            done = ended_iterations(s, replica, now)
            for i in range(s.batches[replica, 0].num_requests):
                if s.requests[s.members[replica, 0, i].request].router == router:
                    observed[replica, STREAMED_TOKENS] += done
        number = row.await_head
        while number >= 0:
            request = s.requests[number]
            if request.router == router:
                i = int(observed[replica, AWAITING])
                if i < depth:
                    observed[replica, QUEUE_COLUMNS * i + QUEUE_AGE] = now - request.arrived_at
                    observed[replica, QUEUE_COLUMNS * i + QUEUE_PROMPT] = request.prompt
                observed[replica, AWAITING] += 1
                observed[replica, AWAITING_TOKENS] += request.prompt
            number = request.await_next


@kernel
def observe(s: State, request: int, now: float) -> None:
    """Update what the router sees at `now`, when it routes `request`."""
    clock = s.clock[0]
    if clock.observed > 0 and clock.gauge_interval == 0.0:
        read_gauges(s, now)
    # In a large cluster, copying the ledger costs more than a decision: copy only if the router needs it.
    if clock.observed > 1:
        if len(s.books.completions) == 1:
            observe_ledger(s, now)
        else:
            observe_own(s, s.requests[request].router, now)
        for replica in range(len(s.replicas)):
            s.books.gauges[replica, GAUGE_AGE] = now - clock.gauges_at
    if clock.indexed == 1:
        run_hook(s.hooks[0].see, (0, request, 0, now, s))
    describe_arrival(s, request, now)


@kernel
def choose_replica(s: State, router: int, request: int, now: float, ledger: Floats) -> int:
    """Let a compiled router choose a replica."""
    books, number = s.books, s.requests[request].router
    view = View(
        now, ledger, books.gauges, books.hardware, books.arrival, books.available, books.completions[number],
        books.prefix[number],
    )  # fmt: skip
    return choose(router, (view, books.memory[number], books.draws[request]))  # type: ignore[no-any-return]


@kernel
def next_decision_time(s: State) -> float:
    """Return the time of the next queued decision; inf if none is queued or no replica is available."""
    clock = s.clock[0]
    if clock.num_available == 0 or clock.num_decisions == 0:
        return np.inf
    return max(clock.now, s.decisions[0].time)


@kernel
def plan_gauges(s: State) -> None:
    """Schedule the last gauge refresh before the next decision or event, if one is due.

    Only decisions read gauges, so earlier refreshes are skipped. A refresh before an event must not see its effect.
    """
    clock = s.clock[0]
    looked_at = min(next_decision_time(s), earliest(s.timers, clock.num_timers))
    if clock.closed_loop == 1:
        # A request that ends may let another arrive at any time, so every refresh is done.
        looked_at = min(looked_at, s.next_time[earliest_replica(s)])
        if not math.isinf(looked_at):
            looked_at = max(clock.gauges_at, 0.0) + clock.gauge_interval
    if clock.observed == 0 or clock.gauge_interval == 0.0 or math.isinf(looked_at) or looked_at > clock.time_limit:
        return
    tick = math.floor(looked_at / clock.gauge_interval + _ROUNDING)
    if tick * clock.gauge_interval > clock.gauges_at:
        push(s.timers, clock.num_timers, tick * clock.gauge_interval, GAUGES, tick, 0)
        clock.num_timers += 1
        clock.gauges_planned = 1


@cold_kernel
def fire_timer(s: State) -> None:
    """Run the first timer's action. Every replica has been advanced to its time."""
    clock, timer = s.clock[0], s.timers[0]
    time, kind, subject = timer.time, timer.kind, timer.subject
    pop(s.timers, clock.num_timers)
    clock.num_timers -= 1
    if kind == GAUGES:
        read_gauges(s, time)
        clock.gauges_planned = 0
    elif kind == EVENT:
        clock.now = max(clock.now, time)
        apply_event(s, subject)


@kernel
def earliest_replica(s: State) -> int:
    """Return the replica on which something happens next."""
    first = 0
    for replica in range(1, len(s.next_time)):
        if s.next_time[replica] < s.next_time[first]:
            first = replica
    return first


@kernel
def step(s: State, replica: int, batcher: int) -> int:
    """Advance a replica by a step. Returns _ADVANCED, or the status that `run` must return."""
    clock = s.clock[0]
    if clock.budget <= 0:
        return YIELD
    # Stopping at the time limit adds a row for each replica.
    if clock.records == 1 and clock.num_rows + _ROWS_A_STEP + len(s.replicas) > len(s.log.rows):
        return ROWS_FULL
    clock.budget -= 1
    ok = step_replica(s, replica, batcher) if s.replicas[replica].stages == 1 else step_pipeline(s, replica, batcher)
    return _ADVANCED if ok else TABLE_MISS


@kernel
def bring_up(s: State, first: int, last: int, until: float, batcher: int) -> int:
    """Advance the replicas in [first, last) to `until`. Returns _ADVANCED, or the status that `run` must return.

    Where requests follow others, all replicas advance in order of time, because a request that ends may let another
    arrive: returns _ARRIVAL if the next decision is due before `until`.
    """
    in_order = s.clock[0].closed_loop == 1
    replica = first
    while True:
        if in_order:
            replica = earliest_replica(s)
        else:
            while replica < last and s.next_time[replica] >= until:
                replica += 1
        if replica == last or s.next_time[replica] >= until:
            return _ADVANCED
        status = step(s, replica, batcher)
        if status != _ADVANCED:
            return status
        if in_order and next_decision_time(s) < until:
            return _ARRIVAL


@cold_kernel
def stop_at(s: State, until: float) -> None:
    """Apply the iterations of current runs that end before `until`."""
    for replica in range(len(s.replicas)):
        if s.replicas[replica].stages == 1 and s.replicas[replica].in_flight > 0:
            done = ended_iterations(s, replica, until)
            if done > 0:
                finish_run(s, replica, done)


@kernel
def run(batcher: int, router: int, budget: int, address: int) -> int:
    """Simulate until the caller must act; call again to continue.

    Returns DONE, DECISION (place the request `Clock.current`), YIELD (the step budget is spent), ROWS_FULL or
    TABLE_MISS. batcher: a handle of `form_batch`. router: a handle of `choose`, or 0 if the caller decides and calls
    `place`. address: of the State.
    """
    s = open_state(address)
    clock = s.clock[0]
    clock.budget = budget
    while True:
        if clock.closed_loop == 1:
            drop_refused(s)
        if clock.gauges_planned == 0:
            plan_gauges(s)
        decision_at = next_decision_time(s)
        timer_at = earliest(s.timers, clock.num_timers)
        until = min(decision_at, max(clock.now, timer_at))
        stopping = until > clock.time_limit
        if stopping:
            until = np.nextafter(clock.time_limit, np.inf)
        deciding = decision_at < timer_at and not stopping
        blind = clock.observed == 0 and clock.closed_loop == 0
        if deciding and blind and clock.chosen == _NOT_CHOSEN:
            # The router looks at no replica: only the one it chooses has to be brought up to now.
            describe_arrival(s, s.decisions[0].subject, decision_at)
            clock.chosen = choose_replica(s, router, s.decisions[0].subject, decision_at, s.books.ledger)
        only_chosen = deciding and blind
        first = clock.chosen if only_chosen else 0
        last = clock.chosen + 1 if only_chosen else len(s.replicas)
        status = bring_up(s, first, last, until, batcher)
        if status == _ARRIVAL:
            continue
        if status != _ADVANCED:
            return status
        if stopping:
            stop_at(s, until)
            return DONE
        if math.isinf(until):
            return DONE
        if not deciding:
            fire_timer(s)
            continue
        clock.now = decision_at
        request = next_request(s)
        if not blind:
            observe(s, request, decision_at)
        if router == 0:
            clock.current = request
            return DECISION
        if not blind:
            ledger = s.books.observed if clock.observed > 1 else s.books.ledger
            clock.chosen = choose_replica(s, router, request, decision_at, ledger)
        replica = clock.chosen
        clock.chosen = _NOT_CHOSEN
        place_request(s, request, replica)
