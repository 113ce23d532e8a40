"""The state of a simulation: record arrays by subject, which every kernel of the engine works on.

Each class of fields below is both the layout of one record, 8 bytes a field (4 for Int32) in the order written, and the
type that a record has in the eyes of mypy. Times are seconds on the simulated clock. A whole number that says yes or no
is 0 or 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from vidur.engine.reference import declare, opener

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Int32: TypeAlias = int
"""A field of 4 bytes."""

R = TypeVar("R")


class Records(Protocol[R]):
    """A record array: what a kernel may do with it."""

    @overload
    def __getitem__(self, index: int | tuple[int, ...]) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Records[R]: ...
    def __setitem__(self, index: slice, value: Records[R]) -> None: ...
    def __len__(self) -> int: ...
    def copy(self) -> Records[R]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Request:
    """A request. What one iteration reads and changes comes first, so that it lies in neighbouring cache lines.

    prefill, total: tokens as the replica sees them: after a preemption by recomputation the tokens decoded so far
    belong to `prefill`; prompt, output: the request's own. prefilled: whether it is in decode; processed: tokens in the
    KV-cache, and in decode the one to be fed in. streamed: output tokens seen so far. scheduled_at, first_token_at and
    completed_at are nan until they happen, last_ended_at is 0. preempted_time: between its batches; admission: its
    number among those admitted by the replica; leader: the first request of its batch, where a batch is held together.
    The *_next and *_prev fields link it into the lists of its replica; -1 ends a list.
    """

    processed: int
    prefill: int
    total: int
    prefilled: int
    blocks: int
    streamed: int
    first_token_at: float
    last_ended_at: float
    preempted_time: float
    execution_time: float
    arrived_at: float
    scheduled_at: float
    prompt: int
    output: int
    wait_next: int
    admission: int
    leader: int
    ledger_prev: int
    ledger_next: int
    await_prev: int
    await_next: int
    placed_at: float
    completed_at: float
    replica: int
    router: int
    status: int
    restarts: int
    reroutes: int
    priority: int
    session: int


class Replica:
    """A replica: its plan (vidur.engine.plan.ReplicaPlan) in the first fields, then its state.

    grows: requests take blocks as they decode; else all are reserved at admission. order: of the waiting queue.
    Three lists of requests: waiting; the ledger of those placed that have not ended; of these, those that await their
    first token. ready: how many of `State.ready`. A run is `run_count` equal iterations of `run_time` from `run_start`
    (vidur.engine.replica). schedule_at: when a pipeline is to form a batch; slowdown: a factor on all its times.
    attention_pairs: query tokens * KV tokens, summed over batches.
    """

    hardware: int
    stages: int
    num_blocks: int
    block_size: int
    max_blocks_per_request: int
    watermark: int
    max_batch: int
    max_admitted: int
    token_limit: int
    max_waiting_iters: int
    grows: int
    hold_until_batch_ends: int
    prefill_threshold: int
    max_request_tokens: int
    max_prompt_tokens: int
    order: int
    wait_head: int
    wait_tail: int
    waiting: int
    ready: int
    admitted: int
    in_flight: int
    allocated: int
    run_count: int
    run_start: float
    run_time: float
    slowdown: float
    schedule_at: float
    attention_pairs: float
    iterations: int
    last_attempt: int
    admissions: int
    preemptions: int
    num_placed: int
    ledger_head: int
    ledger_tail: int
    await_head: int
    await_tail: int


class Batch:
    """A batch in flight. KV lengths are summed at its first iteration; prefill_kv rounds each up to the granularity of
    the tables; prefill_chunk is the root of the summed squares of the chunks. kv_blocks, num_waiting, num_running: of
    the replica when it was formed. repeats: for how many iterations the batcher would form it again; shortest: after
    how many of them its first request ends. The times are those of a pipeline; gaps: seconds between its stages."""

    num_requests: int
    tokens: int
    prefill_tokens: int
    decode_size: int
    decode_kv: int
    prefill_kv: int
    prefill_chunk: int
    prefill_size: int
    kv_blocks: int
    num_waiting: int
    num_running: int
    number: int
    in_use: int
    repeats: int
    shortest: int
    scheduled_at: float
    began_at: float
    last_ended_at: float
    execution_time: float
    gaps: float


class Member:
    """A request of a batch, and the tokens that it processes there."""

    request: int
    tokens: int


class Stage:
    """A pipeline stage: when the batch in service ends (inf if there is none), its seconds, start and slot (-1); the
    number of its start; how many slots queue for the stage; the seconds in which it was busy in all."""

    ends_at: float
    seconds: float
    began_at: float
    slot: int
    sequence: int
    queued: int
    busy_time: float


class Follower:
    """What follows from the end of a stage, at the same instant (vidur.engine.pipeline)."""

    kind: int
    subject: int


class Hardware:
    """A hardware group: where each of its tables begins in `Tables.seconds`, its shape and its steps."""

    token_table: int
    token_length: int
    send_table: int
    decode_table: int
    decode_rows: int
    decode_columns: int
    prefill_table: int
    prefill_rows: int
    prefill_columns: int
    cpu_table: int
    cpu_length: int
    kv_step: int
    chunk_step: int
    prefill_overhead: float


class Clock:
    """The cluster as a whole, one record.

    current: the request to be routed. chosen: the replica that the router has chosen before replicas were brought up to
    date, or -1. observed: the router looks at no replica (0), at the ledger and the gauges (1), also at the tokens
    streamed and the ages of gauges (2). records: whether batches are recorded. next_batch, sequence: numbers given out.
    error*: a lookup beyond a table.
    """

    now: float
    time_limit: float
    gauge_interval: float
    gauges_at: float
    ended_at: float
    next_arrival: int
    num_arrivals: int
    num_decisions: int
    num_timers: int
    gauges_planned: int
    events_seen: int
    current: int
    chosen: int
    num_available: int
    num_finished: int
    num_refused: int
    observed: int
    budget: int
    records: int
    num_rows: int
    num_members: int
    num_member_rows: int
    next_batch: int
    sequence: int
    error: int
    error_asked: int
    error_held: int
    error_replica: int


class Timer:
    """Something that happens at a time: see vidur.engine.timers. Earlier times first, then lower kinds and numbers."""

    time: float
    kind: int
    number: int
    subject: int


class Event:
    """A timed event: an action on a replica, with a factor where it slows down."""

    time: float
    replica: int
    action: int
    factor: float


class Row:
    """A recorded row of batches: vidur.engine.recording.Recording.batches says what each field is."""

    scheduled_at: float
    start: float
    iteration_time: float
    batch_id: int
    replica: Int32
    stage: Int32
    count: Int32
    batch_size: Int32
    num_tokens: Int32
    num_prefill_tokens: Int32
    decode_size: Int32
    decode_kv_tokens: Int32
    prefill_kv_tokens: Int32
    prefill_chunk: Int32
    kv_blocks: Int32
    num_waiting: Int32
    num_running: Int32
    unused: Int32


_FORMATS = {"int": "i8", "float": "f8", "Int32": "i4"}


def record_dtype(fields: type) -> np.dtype[Any]:
    """The NumPy type of a class of fields."""
    assert not [name for name in fields.__annotations__ if hasattr(np.record, name)], "NumPy's own names hide fields"
    return np.dtype([(name, _FORMATS[kind]) for name, kind in fields.__annotations__.items()])


def records(fields: type[R], *shape: int) -> Records[R]:
    """An array of records, all zero."""
    return cast("Records[R]", np.zeros(shape, record_dtype(fields)).view(np.recarray))


class Tables(NamedTuple):
    """Execution times. seconds: the tables of every group, one after the other: of a stage, by tokens; the transfer to
    the next stage, by tokens; decode attention; prefill attention; CPU overhead, by batch size."""

    hardware: Records[Hardware]
    seconds: Floats


class Books(NamedTuple):
    """What routers see and keep: vidur.observation has the columns.

    ledger, gauges, hardware and available have a row for each replica, completions and memory one for each router,
    draws one for each request. observed: the ledger as it is shown to a router. ledger is of all that is placed; where
    there are several routers it has a column for each of them: how many of its requests have ended. routed: how many
    requests each router has routed.
    """

    ledger: Floats
    completions: Floats
    gauges: Floats
    hardware: Floats
    observed: Floats
    arrival: Floats
    available: Ints
    memory: Floats
    draws: Floats
    routed: Ints


class Log(NamedTuple):
    """What is recorded: rows of batches, and the members of the first of them, from member_offsets[row] on."""

    rows: Records[Row]
    member_offsets: Ints
    members: Records[Member]


class State(NamedTuple):
    """All arrays of a simulation of N requests on R replicas of up to S stages.

    requests [N]; replicas, next_time (when something happens there next) [R]; batches, stages [R, S], a batch in each
    of as many slots as stages; members [R, S, capacity]; ready [R, capacity]: admitted requests that are in no batch,
    in the order in which their batches ended; stage_queue [R, S, S]: slots; followers: room for one instant;
    clock [1]; decisions, timers: heaps of what is to be routed and of what happens at a time; events.
    """

    requests: Records[Request]
    replicas: Records[Replica]
    next_time: Floats
    ready: Ints
    batches: Records[Batch]
    members: Records[Member]
    stages: Records[Stage]
    stage_queue: Ints
    followers: Records[Follower]
    clock: Records[Clock]
    decisions: Records[Timer]
    timers: Records[Timer]
    events: Records[Event]
    tables: Tables
    books: Books
    log: Log


def _empty() -> State:
    """A state of nothing, with the types that every state has."""
    floats, ints = np.zeros((0, 0)), np.zeros(0, np.int64)
    return State(
        requests=records(Request, 0),
        replicas=records(Replica, 0),
        next_time=np.zeros(0),
        ready=np.zeros((0, 0), np.int64),
        batches=records(Batch, 0, 0),
        members=records(Member, 0, 0, 0),
        stages=records(Stage, 0, 0),
        stage_queue=np.zeros((0, 0, 0), np.int64),
        followers=records(Follower, 0),
        clock=records(Clock, 0),
        decisions=records(Timer, 0),
        timers=records(Timer, 0),
        events=records(Event, 0),
        tables=Tables(records(Hardware, 0), np.zeros(0)),
        books=Books(floats, floats, floats, floats, floats, np.zeros(0), ints, floats, floats, ints),
        log=Log(records(Row, 0), ints, records(Member, 0)),
    )


STATE = declare(_empty())
"""The Numba type of a State's address."""

open_state = opener(STATE)
"""For kernels that Python calls: the address it hands over -> the State."""
