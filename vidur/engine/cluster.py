"""The cluster: arrivals, routing decisions, timed events, gauges; and the loop over them.

Replicas touch each other only through routing, so each keeps its own clock. Before a decision at time t every replica
that the router may look at is brought up to t: all that happens strictly before t is done (an arrival at t goes before
what else happens at t, as upstream orders them).
"""

from __future__ import annotations

import math

import numpy as np

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import (
    ADMITTED,
    ALLOCATED,
    ARRIVED,
    AWAIT_HEAD,
    AWAIT_NEXT,
    BLOCK_SIZE,
    BLOCKS,
    BUDGET,
    CHOSEN,
    CURRENT,
    DECISION,
    DECISIONS,
    DECODE_SIZE,
    DONE,
    DRAIN,
    EVENT_ACTION,
    EVENT_FACTOR,
    EVENT_REPLICA,
    EVENT_TIME,
    FAIL,
    FIRST_TOKEN,
    GAUGE_INTERVAL,
    GAUGES_AT,
    GROUP,
    GROWS,
    HELD_COUNT,
    HELD_HEAD,
    HOLD_UNTIL_BATCH_ENDS,
    IN_FLIGHT,
    LAST_END,
    LEDGER_HEAD,
    LEDGER_NEXT,
    MAX_PROMPT_TOKENS,
    MAX_REQUEST_TOKENS,
    NEXT_ARRIVAL,
    NEXT_EVENT,
    NOW,
    NUM_ARRIVALS,
    NUM_AVAILABLE,
    NUM_BLOCKS,
    NUM_PLACED,
    NUM_REFUSED,
    OBSERVED,
    OUTPUT,
    PLACED,
    PREEMPTIONS,
    PREFILL,
    PREFILLED,
    PROCESSED,
    PROMPT,
    READY,
    REPLICA,
    REROUTES,
    ROUTER,
    ROWS,
    ROWS_FULL,
    RUN_COUNT,
    RUN_START,
    RUN_TIME,
    SCHEDULE_AT,
    SCHEDULED,
    SIZE,
    SLOW,
    SLOWDOWN,
    STAGES,
    STATUS,
    STREAMED,
    TABLE_MISS,
    TIME_LIMIT,
    WAIT_HEAD,
    WAIT_TAIL,
    WAITING,
    YIELD,
)
from vidur.engine.ledger import (
    AWAITING,
    AWAITING_TOKENS,
    FINISHED,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    STREAMED_TOKENS,
    TOKEN_SECONDS,
    count_dropped,
    count_placed,
)
from vidur.engine.pipeline import reset_pipeline, step_pipeline
from vidur.engine.queues import push_waiting
from vidur.engine.recording import REFUSED
from vidur.engine.replica import cut_run, ended_iterations, finish_run, step_replica
from vidur.engine.routing import choose_callback
from vidur.scheduler.observation import (
    ARRIVAL_AGE,
    ARRIVAL_ORDINAL,
    ARRIVAL_PRIORITY,
    ARRIVAL_PROMPT,
    ARRIVAL_SESSION,
    GAUGE_AGE,
    GAUGE_KV_USAGE,
    GAUGE_PREEMPTIONS,
    GAUGE_RUNNING,
    GAUGE_WAITING,
    QUEUE_AGE,
    QUEUE_COLUMNS,
    QUEUE_PROMPT,
)

choose = choose_callback.call

_ROWS_A_STEP = 64
_UP_TO_DATE = -1


@kernel
def hold(request: int, held: Ints, cluster: Ints) -> None:
    """Queue a request for (another) routing decision."""
    held[(cluster[HELD_HEAD] + cluster[HELD_COUNT]) % len(held)] = request
    cluster[HELD_COUNT] += 1


@kernel
def place(
    request: int,
    replica: int,
    next_time: Floats,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    ledger: Floats,
    cluster: Ints,
    cluster_floats: Floats,
) -> None:
    """Give `request` to `replica`, or refuse it if the replica can never hold it."""
    now = cluster_floats[NOW]
    requests[request, REPLICA] = replica
    cluster[DECISIONS + requests[request, ROUTER]] += 1
    prompt = requests[request, PROMPT]
    total = prompt + requests[request, OUTPUT]
    if total > replicas[replica, MAX_REQUEST_TOKENS] or prompt > replicas[replica, MAX_PROMPT_TOKENS]:
        requests[request, STATUS] = REFUSED
        cluster[NUM_REFUSED] += 1
        return
    times[request, PLACED] = now
    replicas[replica, NUM_PLACED] += 1
    count_placed(replica, request, requests, replicas, ledger)
    behind = replicas[replica, WAITING] > 0
    push_waiting(requests, replicas, replica, request)
    if replicas[replica, STAGES] > 1:
        if replicas[replica, IN_FLIGHT] < replicas[replica, STAGES]:
            replica_floats[replica, SCHEDULE_AT] = now
            next_time[replica] = min(next_time[replica], now)
    elif replicas[replica, IN_FLIGHT] == 0:
        next_time[replica] = min(next_time[replica], now)
    elif not behind:
        cut_run(replica, now, next_time, replicas, replica_floats)


@kernel
def read_gauges(
    at: float,
    replicas: Ints,
    replica_floats: Floats,
    requests: Ints,
    batch_requests: Ints,
    batches: Ints,
    gauges: Floats,
) -> None:
    """Set the gauges to the state at `at`, up to which every replica has been brought."""
    for replica in range(len(replicas)):
        allocated = replicas[replica, ALLOCATED]
        if replicas[replica, IN_FLIGHT] == 1 and replicas[replica, RUN_COUNT] > 1 and replicas[replica, GROWS] == 1:
            done = ended_iterations(
                replica_floats[replica, RUN_START], replica_floats[replica, RUN_TIME], replicas[replica, RUN_COUNT], at
            )
            for index in range(batches[replica, 0, SIZE]):
                request = batch_requests[replica, 0, index]
                tokens = requests[request, PROCESSED] + done
                allocated += max(0, -(-tokens // replicas[replica, BLOCK_SIZE]) - requests[request, BLOCKS])
        gauges[replica, GAUGE_RUNNING] = replicas[replica, ADMITTED]
        gauges[replica, GAUGE_WAITING] = replicas[replica, WAITING]
        gauges[replica, GAUGE_KV_USAGE] = allocated / replicas[replica, NUM_BLOCKS]
        gauges[replica, GAUGE_PREEMPTIONS] = replicas[replica, PREEMPTIONS]


@kernel
def abort_replica(
    replica: int,
    next_time: Floats,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    batches: Ints,
    stage_ends: Floats,
    stage_state: Ints,
    ledger: Floats,
    held: Ints,
    cluster: Ints,
) -> None:
    """Lose all that the replica holds: its requests are routed again, in the order they were placed, from the start."""
    request = replicas[replica, LEDGER_HEAD]
    while request >= 0:
        count_dropped(replica, request, times, requests, replicas, ledger)
        if replicas[replica, HOLD_UNTIL_BATCH_ENDS] == 1 and requests[request, BLOCKS] > 0:
            # The first of its batch may have finished, and then holds what others left.
            requests[requests[request, GROUP], BLOCKS] = 0
        requests[request, PREFILL] = requests[request, PROMPT]
        requests[request, PROCESSED] = 0
        requests[request, BLOCKS] = 0
        requests[request, PREFILLED] = 0
        requests[request, STREAMED] = 0
        requests[request, GROUP] = 0
        requests[request, REROUTES] += 1
        times[request, SCHEDULED] = np.nan
        times[request, FIRST_TOKEN] = np.nan
        times[request, LAST_END] = 0.0
        hold(request, held, cluster)
        request = replicas[replica, LEDGER_HEAD]
    replicas[replica, WAIT_HEAD] = -1
    replicas[replica, WAIT_TAIL] = -1
    for column in (WAITING, READY, ADMITTED, IN_FLIGHT, ALLOCATED):
        replicas[replica, column] = 0
    reset_pipeline(replica, replicas[replica, STAGES], stage_ends, stage_state, batches)
    replica_floats[replica, SCHEDULE_AT] = np.inf
    next_time[replica] = np.inf


@kernel
def apply_event(
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
    ledger: Floats,
    completions: Floats,
    cluster: Ints,
    cluster_floats: Floats,
    row_floats: Floats,
    row_ints: Ints,
    member_offsets: Ints,
    members: Ints,
    stage_ends: Floats,
    stage_state: Ints,
    events: Floats,
    held: Ints,
    available: Ints,
) -> None:
    """Apply the next timed event, which happens now."""
    row = cluster[NEXT_EVENT]
    cluster[NEXT_EVENT] += 1
    replica = int(events[row, EVENT_REPLICA])
    action = int(events[row, EVENT_ACTION])
    running = replicas[replica, STAGES] == 1 and replicas[replica, IN_FLIGHT] > 0
    if running and action in (SLOW, FAIL):
        cut_run(replica, cluster_floats[NOW], next_time, replicas, replica_floats)
    if action == SLOW:
        replica_floats[replica, SLOWDOWN] = events[row, EVENT_FACTOR]
        return
    up = 0 if action in (FAIL, DRAIN) else 1
    cluster[NUM_AVAILABLE] += up - available[replica]
    available[replica] = up
    if action != FAIL:
        return
    if running and replicas[replica, RUN_COUNT] > 1:
        # The iteration under way is lost, those before it happened.
        finish_run(
            replica, replicas[replica, RUN_COUNT] - 1, times, requests, replicas, replica_floats, ready,
            batch_requests, batch_tokens, batches, busy, ledger, completions, cluster, cluster_floats,
            row_floats, row_ints, member_offsets, members,
        )  # fmt: skip
    abort_replica(
        replica, next_time, times, requests, replicas, replica_floats, batches, stage_ends, stage_state, ledger, held,
        cluster,
    )  # fmt: skip


@kernel
def describe_arrival(
    request: int, times: Floats, requests: Ints, sessions: Ints, cluster: Ints, now: float, arrival: Floats
) -> None:
    arrival[ARRIVAL_PROMPT] = requests[request, PROMPT]
    arrival[ARRIVAL_AGE] = now - times[request, ARRIVED]
    arrival[ARRIVAL_PRIORITY] = sessions[request, 1]
    arrival[ARRIVAL_SESSION] = sessions[request, 0]
    arrival[ARRIVAL_ORDINAL] = cluster[DECISIONS + requests[request, ROUTER]]


@kernel
def observe_ledger(
    now: float,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    batches: Ints,
    ledger: Floats,
    observed: Floats,
) -> None:
    """Copy the ledger to `observed` with the tokens that runs under way have streamed by `now`, and the heads of the
    queues for a first token."""
    depth = (observed.shape[1] - ledger.shape[1]) // QUEUE_COLUMNS
    for replica in range(len(replicas)):
        for column in range(ledger.shape[1]):
            observed[replica, column] = ledger[replica, column]
        if replicas[replica, IN_FLIGHT] > 0 and replicas[replica, RUN_COUNT] > 1:
            done = ended_iterations(
                replica_floats[replica, RUN_START], replica_floats[replica, RUN_TIME], replicas[replica, RUN_COUNT], now
            )
            observed[replica, STREAMED_TOKENS] += done * batches[replica, 0, DECODE_SIZE]
        request = replicas[replica, AWAIT_HEAD]
        for place_in_queue in range(depth):
            column = QUEUE_COLUMNS * place_in_queue
            age, prompt = 0.0, 0
            if request >= 0:
                age, prompt = now - times[request, ARRIVED], requests[request, PROMPT]
                request = requests[request, AWAIT_NEXT]
            observed[replica, column + QUEUE_AGE] = age
            observed[replica, column + QUEUE_PROMPT] = prompt


@kernel
def observe_own(
    router: int,
    now: float,
    times: Floats,
    requests: Ints,
    replicas: Ints,
    replica_floats: Floats,
    batch_requests: Ints,
    batches: Ints,
    ledger: Floats,
    observed: Floats,
) -> None:
    """Set `observed` to the ledger of one router of several: what it placed itself, counted anew.

    TOKEN_SECONDS alone is that of all streams of the replica: each is an average over the same iterations.
    """
    depth = (observed.shape[1] - LEDGER_COLUMNS) // QUEUE_COLUMNS
    for replica in range(len(replicas)):
        for column in range(observed.shape[1]):
            observed[replica, column] = 0.0
        observed[replica, FINISHED] = ledger[replica, LEDGER_COLUMNS + router]
        observed[replica, TOKEN_SECONDS] = ledger[replica, TOKEN_SECONDS]
        request = replicas[replica, LEDGER_HEAD]
        while request >= 0:
            if requests[request, ROUTER] == router:
                observed[replica, OUTSTANDING] += 1
                observed[replica, PROMPT_TOKENS] += requests[request, PROMPT]
                observed[replica, STREAMED_TOKENS] += requests[request, STREAMED]
            request = requests[request, LEDGER_NEXT]
        if replicas[replica, IN_FLIGHT] > 0 and replicas[replica, RUN_COUNT] > 1:
            done = ended_iterations(
                replica_floats[replica, RUN_START], replica_floats[replica, RUN_TIME], replicas[replica, RUN_COUNT], now
            )
            for index in range(batches[replica, 0, SIZE]):
                if requests[batch_requests[replica, 0, index], ROUTER] == router:
                    observed[replica, STREAMED_TOKENS] += done
        request = replicas[replica, AWAIT_HEAD]
        while request >= 0:
            if requests[request, ROUTER] == router:
                place_in_queue = int(observed[replica, AWAITING])
                if place_in_queue < depth:
                    column = QUEUE_COLUMNS * place_in_queue
                    observed[replica, column + QUEUE_AGE] = now - times[request, ARRIVED]
                    observed[replica, column + QUEUE_PROMPT] = requests[request, PROMPT]
                observed[replica, AWAITING] += 1
                observed[replica, AWAITING_TOKENS] += requests[request, PROMPT]
            request = requests[request, AWAIT_NEXT]


@kernel
def run(
    policy: int,
    router: int,
    budget: int,
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
    memory: Floats,
    draws: Floats,
) -> int:
    """Simulate until something needs the caller: DONE, DECISION (the request in CURRENT is to be placed), YIELD (the
    budget of steps is spent), ROWS_FULL (room for rows is short), TABLE_MISS. Calling again goes on.

    router: the handle of a kernel that decides; with 0 the caller decides and calls `place`. memory and completions
    have a row for each router.
    """
    cluster[BUDGET] = budget
    num_replicas, num_routers = len(replicas), len(completions)
    while True:
        now = cluster_floats[NOW]
        arriving = cluster[NEXT_ARRIVAL] < cluster[NUM_ARRIVALS]
        holding = cluster[HELD_COUNT] > 0 and cluster[NUM_AVAILABLE] > 0
        decision_at = np.inf
        if holding:
            decision_at = now
        elif arriving:
            decision_at = times[cluster[NEXT_ARRIVAL], ARRIVED]
        event_at = np.inf
        if cluster[NEXT_EVENT] < len(events):
            event_at = max(now, events[cluster[NEXT_EVENT], EVENT_TIME])
        target = min(decision_at, event_at)
        beyond = target > cluster_floats[TIME_LIMIT]
        if beyond:
            target = np.nextafter(cluster_floats[TIME_LIMIT], np.inf)
        sample_at = 0.0
        sampling = False
        if not beyond and cluster[OBSERVED] > 0 and math.isfinite(target):
            # Before an event too, so that what it changes does not show before the next refresh.
            interval = cluster_floats[GAUGE_INTERVAL]
            sample_at = math.floor(target / interval) * interval if interval > 0.0 else target
            sampling = sample_at > cluster_floats[GAUGES_AT] if interval > 0.0 else decision_at < event_at
            if sampling:
                target = min(target, sample_at)

        only = _UP_TO_DATE
        if decision_at < event_at and not beyond and cluster[OBSERVED] == 0 and cluster[NUM_AVAILABLE] > 0:
            # The router looks at no replica: only the one it chooses has to be brought up to now.
            if cluster[CHOSEN] == _UP_TO_DATE:
                request = held[cluster[HELD_HEAD]] if holding else cluster[NEXT_ARRIVAL]
                describe_arrival(request, times, requests, sessions, cluster, decision_at, arrival)
                own = requests[request, ROUTER]
                cluster[CHOSEN] = choose(
                    router, decision_at, ledger, gauges, hardware, arrival, available, completions[own], memory[own],
                    draws[request],
                )  # fmt: skip
            only = cluster[CHOSEN]
        first = 0 if only == _UP_TO_DATE else only
        last = num_replicas if only == _UP_TO_DATE else only + 1
        for replica in range(first, last):
            while next_time[replica] < target:
                if cluster[BUDGET] <= 0:
                    return YIELD
                if cluster[ROWS] + _ROWS_A_STEP > len(row_ints) and len(row_ints) > 0:
                    return ROWS_FULL
                cluster[BUDGET] -= 1
                if replicas[replica, STAGES] == 1:
                    fine = step_replica(
                        replica, policy, next_time, times, requests, replicas, replica_floats, ready, batch_requests,
                        batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times,
                        prefill_times, cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints,
                        member_offsets, members,
                    )  # fmt: skip
                else:
                    fine = step_pipeline(
                        replica, policy, next_time, times, requests, replicas, replica_floats, ready, batch_requests,
                        batch_tokens, batches, busy, groups, prefill_overhead, token_times, decode_times,
                        prefill_times, cpu_times, ledger, completions, cluster, cluster_floats, row_floats, row_ints,
                        member_offsets, members, send_times, stage_ends, stage_state, followers,
                        batch_times,
                    )  # fmt: skip
                if not fine:
                    return TABLE_MISS
        if sampling:
            read_gauges(sample_at, replicas, replica_floats, requests, batch_requests, batches, gauges)
            cluster_floats[GAUGES_AT] = sample_at
            if sample_at < min(decision_at, event_at):
                continue
        if beyond:
            for replica in range(num_replicas):
                if replicas[replica, STAGES] == 1 and replicas[replica, IN_FLIGHT] > 0:
                    done = ended_iterations(
                        replica_floats[replica, RUN_START],
                        replica_floats[replica, RUN_TIME],
                        replicas[replica, RUN_COUNT],
                        target,
                    )
                    if done > 0:
                        finish_run(
                            replica, done, times, requests, replicas, replica_floats, ready, batch_requests,
                            batch_tokens, batches, busy, ledger, completions, cluster, cluster_floats, row_floats,
                            row_ints, member_offsets, members,
                        )  # fmt: skip
            return DONE
        if math.isinf(decision_at) and math.isinf(event_at):
            return DONE

        if event_at <= decision_at:
            cluster_floats[NOW] = event_at
            apply_event(
                next_time, times, requests, replicas, replica_floats, ready, batch_requests, batch_tokens, batches,
                busy, ledger, completions, cluster, cluster_floats, row_floats, row_ints, member_offsets, members,
                stage_ends, stage_state, events, held, available,
            )  # fmt: skip
            continue

        cluster_floats[NOW] = decision_at
        if holding:
            request = held[cluster[HELD_HEAD]]
            cluster[HELD_HEAD] = (cluster[HELD_HEAD] + 1) % len(held)
            cluster[HELD_COUNT] -= 1
        else:
            request = cluster[NEXT_ARRIVAL]
            cluster[NEXT_ARRIVAL] += 1
            if cluster[NUM_AVAILABLE] == 0:
                hold(request, held, cluster)
                continue
        if only == _UP_TO_DATE:
            own = requests[request, ROUTER]
            # Copying the ledger of a large cluster costs more than a decision, so it is done on demand only.
            if cluster[OBSERVED] > 1:
                if num_routers == 1:
                    observe_ledger(decision_at, times, requests, replicas, replica_floats, batches, ledger, observed)
                else:
                    observe_own(
                        own, decision_at, times, requests, replicas, replica_floats, batch_requests, batches, ledger,
                        observed,
                    )  # fmt: skip
                for replica in range(num_replicas):
                    gauges[replica, GAUGE_AGE] = decision_at - cluster_floats[GAUGES_AT]
            describe_arrival(request, times, requests, sessions, cluster, decision_at, arrival)
            if router == 0:
                cluster[CURRENT] = request
                return DECISION
            seen = observed if cluster[OBSERVED] > 1 else ledger
            only = choose(
                router, decision_at, seen, gauges, hardware, arrival, available, completions[own], memory[own],
                draws[request],
            )  # fmt: skip
        cluster[CHOSEN] = _UP_TO_DATE
        place(request, only, next_time, times, requests, replicas, replica_floats, ledger, cluster, cluster_floats)
