"""The state of a simulation: record arrays by subject, on which every kernel works.

Each class of fields is both the memory layout of a record (8 bytes per field, 4 for Int32, in this order) and its type
for mypy. Times are seconds on the simulated clock. Integers used as flags are 0 or 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from vidur.engine.reference import declare, opener

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Shorts: TypeAlias = NDArray[np.int32]
Int32: TypeAlias = int
"""A field of 4 bytes."""

R = TypeVar("R")


class Records(Protocol[R]):
    """The operations of a record array that kernels use."""

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
    """A request. The fields that every iteration uses come first, to share cache lines.

    prompt, output: the request's tokens. prefill, total: tokens as the replica sees them; preemption by recomputation
    moves decoded tokens into `prefill`. prefilled: whether it is in decode. processed: tokens in the KV-cache, plus in
    decode the next input token. streamed: output tokens so far. scheduled_at, first_token_at and completed_at are nan
    until they happen, last_ended_at 0. preempted_time: seconds between its batches. admission: its number in the
    replica's order of admission. leader: the first request of its batch, if batches stay together. *_next and *_prev
    link it into the replica's lists; -1 ends a list.
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


class Prefix:
    """What prefix caches have to do with a request.

    cached: prompt tokens found when it was first scheduled, -1 before. named: how many of its blocks have a key.
    table: its row in `Cache.tables`. indexed: its entries in the router's index. matched, uncached: prompt tokens
    that the router believed cached, and not, at placement; prefill_seconds: for the latter. used_at: when the router's
    index last used the deepest matched entry.
    """

    cached: int
    named: int
    table: int
    indexed: int
    matched: int
    uncached: int
    prefill_seconds: float
    used_at: float


class Turn:
    """When a request arrives: `think` seconds after the last of its `parents` has ended, if it has any; `left`: parents
    that have not."""

    parents: int
    left: int
    think: float


class Replica:
    """A replica: the fields of its plan (vidur.engine.plan.ReplicaPlan), then its state.

    Three lists of requests: wait (the waiting queue), ledger (outstanding), await (awaiting a first token). ready: how
    many entries of `State.ready` are used. A run is `run_count` equal iterations of `run_time` from `run_start`
    (vidur.engine.replica). schedule_at: when a pipeline forms its next batch. slowdown: multiplies all times.
    attention_pairs: query tokens * KV tokens, summed over batches. caching: whether it caches prefixes;
    `allocated` then counts the blocks in use, not those that are only cached.
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
    caching: int
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


class Block:
    """A KV-cache block of a replica, or an entry of a router's index.

    key: of its content (vidur.engine.pool). ref: requests that use it. before, after: its neighbours in the free queue.
    twin_before, twin_after: the ring of blocks of the same key. used_at: when the last request released it.
    """

    key: int
    used_at: float
    ref: Int32
    before: Int32
    after: Int32
    twin_before: Int32
    twin_after: Int32
    unused: Int32


class Pool:
    """The blocks of one replica, or of a router's index of one.

    capacity: usable blocks. mask: of the hash table. head, tail: of the free queue. free: blocks in it. spare: first of
    the blocks outside of it, linked by `after` (an index only). used: blocks that hold something (an index only).
    rows: how many entries of `Cache.free_tables` are left. evicted_blocks: blocks whose content was lost, evicted_age:
    seconds since their last use, summed. query_tokens, hit_tokens: prompt tokens of admitted requests, and those found.
    """

    capacity: int
    mask: int
    head: int
    tail: int
    free: int
    spare: int
    used: int
    rows: int
    evicted_blocks: int
    evicted_age: float
    query_tokens: int
    hit_tokens: int


class IndexRules:
    """How routers index prefixes (vidur.prefix_index.IndexOptions). stride: a replica's blocks per entry of the index.
    mode: of vidur.engine.index. delay: seconds that a KV event takes to arrive. loss: probability that it does not.
    """

    mode: int
    stride: int
    outputs: int
    holds: int
    tails_first: int
    contiguous: int
    ttl: float
    delay: float
    loss: float


class Hooks:
    """The handles of vidur.engine.hooks; 0 where the simulation does not need one."""

    admit: int
    cover: int
    release: int
    preempted: int
    see: int
    placed: int
    first_token: int
    ended: int
    refused: int
    failed: int


class Channel:
    """The KV events of a replica that are on their way to the routers: `count` entries of a ring, from `first` on.
    draws: the last random number used."""

    first: int
    count: int
    draws: int


class KvEvent:
    """A block was cached or evicted (vidur.engine.kv_events) at `time`."""

    time: float
    key: int
    kind: int


class Batch:
    """A batch in flight.

    decode_kv, prefill_kv: KV lengths summed at its first iteration, prefill's each rounded up to the tables'
    granularity. prefill_chunk: root of the summed squares of the chunks. kv_blocks, num_waiting, num_running: of the
    replica when the batch was formed. repeats: iterations for which the batcher would form it again. shortest:
    iterations until its first request ends. Times are set in pipelines; gaps: seconds between stages.
    """

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
    """A request of a batch, and the tokens that it processes in it."""

    request: int
    tokens: int


class Stage:
    """A pipeline stage: the end (inf if idle), seconds, start and slot (-1 if idle) of its batch; sequence: the number
    of that start; queued: slots that wait for the stage; busy_time: total busy seconds."""

    ends_at: float
    seconds: float
    began_at: float
    slot: int
    sequence: int
    queued: int
    busy_time: float


class Follower:
    """A consequence of a stage's end at the same instant (vidur.engine.pipeline)."""

    kind: int
    subject: int


class Hardware:
    """A hardware group: where each of its tables begins in `Tables.seconds`, and their shapes and steps."""

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
    """The state of the cluster as a whole, one record.

    current: the request to route. chosen: a replica chosen before replicas were advanced, or -1. observed: what the
    router reads: nothing (0), ledger and gauges (1), also STREAMED_TOKENS and GAUGE_AGE (2). records: whether batches
    are recorded. foreseeing: a replica is run ahead, and nothing else may change. closed_loop: whether requests follow
    others. indexed: whether routers keep an index of prefixes. kv_events: whether replicas tell them. next_batch,
    sequence: the next numbers to assign. error*: a lookup beyond a table.
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
    foreseeing: int
    closed_loop: int
    indexed: int
    kv_events: int
    error: int
    error_asked: int
    error_largest: int
    error_replica: int


class Timer:
    """An entry of a heap (vidur.engine.timers), ordered by time, kind and number."""

    time: float
    kind: int
    number: int
    subject: int


class Event:
    """A timed event: an action on a replica; `factor` is for slowing down."""

    time: float
    replica: int
    action: int
    factor: float


class Row:
    """A recorded row of batches; vidur.engine.recording.Recording explains the fields."""

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
    """Return the NumPy type of a class of fields."""
    assert not [name for name in fields.__annotations__ if hasattr(np.record, name)], "NumPy's own names hide fields"
    return np.dtype([(name, _FORMATS[kind]) for name, kind in fields.__annotations__.items()])


def records(fields: type[R], *shape: int) -> Records[R]:
    """Return an array of records, all zero."""
    return cast("Records[R]", np.zeros(shape, record_dtype(fields)).view(np.recarray))


class Tables(NamedTuple):
    """Execution times. seconds: the tables of every hardware group, concatenated: a stage and the transfer to the next
    by tokens, decode attention, prefill attention, CPU overhead by batch size."""

    hardware: Records[Hardware]
    seconds: Floats


class Books(NamedTuple):
    """What routers see and keep; vidur.observation explains the columns.

    ledger, observed, gauges, hardware, prefix, available: a row per replica. completions, memory, routed: per router.
    draws: a row per request. ledger covers all requests; several routers add a column each for their finished ones.
    observed: the ledger that a router sees. routed: requests that each router has routed.
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
    prefix: Floats


class Chains(NamedTuple):
    """The keys of the requests' blocks, in runs of consecutive keys (vidur.request_generator.content.Blocks)."""

    offsets: Ints
    keys: Ints
    ends: Ints


class Cache(NamedTuple):
    """The blocks of P replicas (or of P router's indexes of replicas).

    pools [P]; blocks [P, B]; slots [P, T]: the hash table from keys to blocks, -1 where empty; tables [P, A, L]: the
    blocks of each admitted request, in order; free_tables [P, A]: unused rows of `tables`.
    """

    pools: Records[Pool]
    blocks: Records[Block]
    slots: Shorts
    tables: Shorts
    free_tables: Shorts


class Following(NamedTuple):
    """The requests that follow request i: children[offsets[i]:offsets[i + 1]]."""

    offsets: Ints
    children: Ints


class Log(NamedTuple):
    """Recorded rows of batches; the members of a row begin at member_offsets[row], for the first rows only."""

    rows: Records[Row]
    member_offsets: Ints
    members: Records[Member]


class State(NamedTuple):
    """All arrays of a simulation of N requests on R replicas of up to S stages.

    requests [N]; replicas [R]; next_time [R]: when something next happens there; batches [R, S]: one per slot; stages
    [R, S]; members [R, S, capacity]; ready [R, capacity]: admitted requests in no batch, in the order in which their
    batches ended; stage_queue [R, S, S]: slots; followers: of one instant; clock [1]; decisions, timers: heaps; events.
    cache: of the replicas. indexes: of the routers, row router * R + replica. channels [R], kv_events [R, E]: what
    replicas have told routers of their caches; event_draws: uniform random numbers that decide what gets lost.
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
    chains: Chains
    cache: Cache
    indexes: Cache
    index_rules: Records[IndexRules]
    hooks: Records[Hooks]
    channels: Records[Channel]
    kv_events: Records[KvEvent]
    event_draws: Floats
    following: Following
    prefixes: Records[Prefix]
    turns: Records[Turn]


def no_cache() -> Cache:
    """Return a cache without blocks."""
    shorts = np.zeros((0, 0), np.int32)
    return Cache(records(Pool, 0), records(Block, 0, 0), shorts, np.zeros((0, 0, 0), np.int32), shorts)


def _empty() -> State:
    """Make an empty state that shows Numba the types of every state."""
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
        books=Books(
            floats, floats, floats, floats, floats, np.zeros(0), ints, floats, floats, ints, np.zeros((0,) * 3)
        ),
        log=Log(records(Row, 0), ints, records(Member, 0)),
        chains=Chains(ints, ints, ints),
        cache=no_cache(),
        indexes=no_cache(),
        index_rules=records(IndexRules, 0),
        hooks=records(Hooks, 0),
        channels=records(Channel, 0),
        kv_events=records(KvEvent, 0, 0),
        event_draws=np.zeros(0),
        following=Following(ints, ints),
        prefixes=records(Prefix, 0),
        turns=records(Turn, 0),
    )


STATE = declare(_empty())
"""The Numba type of a State's address."""

open_state = opener(STATE)
"""Turn the address that Python passes to a kernel into the State."""
