"""Build the state of one simulation from its plans, and its recording from the state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidur import observation
from vidur.engine.compile import COMPILED
from vidur.engine.contents import (
    known,
    make_cache,
    make_chains,
    make_channels,
    make_following,
    make_index,
    make_prefixes,
    make_rules,
    make_turns,
)
from vidur.engine.hooks import make_hooks
from vidur.engine.index import EVENTS
from vidur.engine.plan import EngineOptions, HardwarePlan, ReplicaPlan, hardware_facts, prefill_costs
from vidur.engine.recording import UNFINISHED, Columns, Recording
from vidur.engine.reference import describe
from vidur.engine.state import (
    Batch,
    Books,
    Clock,
    Event,
    Floats,
    Follower,
    Hardware,
    Log,
    Member,
    Replica,
    Request,
    Row,
    Stage,
    State,
    Tables,
    Timer,
    record_dtype,
    records,
)
from vidur.engine.timers import ARRIVED, EVENT

if TYPE_CHECKING:
    from vidur.request_generator.request_table import RequestTable

# Fields of a Replica that are copied from its plan.
_PLANNED = (
    "hardware", "stages", "num_blocks", "block_size", "max_blocks_per_request", "watermark", "max_batch",
    "max_admitted", "token_limit", "max_waiting_iters", "grows", "hold_until_batch_ends", "prefill_threshold",
    "max_request_tokens", "max_prompt_tokens", "order", "caching",
)  # fmt: skip
_MOST_MEMBERS = 1 << 24


def _requests(table: RequestTable, routers: NDArray[np.int64]) -> Any:
    requests: Any = records(Request, len(table))
    for field in ("scheduled_at", "first_token_at", "placed_at", "completed_at"):
        requests[field] = np.nan
    requests["arrived_at"] = table.arrived_at
    if table.turns is not None:
        requests["arrived_at"][table.turns.num_parents() > 0] = np.nan
    requests["prefill"] = requests["prompt"] = table.num_prefill_tokens
    requests["output"] = table.num_decode_tokens
    requests["total"] = table.num_prefill_tokens + table.num_decode_tokens
    requests["replica"] = -1
    requests["session"], requests["priority"] = table.session_id, table.priority
    if len(routers):
        requests["router"] = routers
    return requests


def _replicas(plans: list[ReplicaPlan]) -> Any:
    replicas: Any = records(Replica, len(plans))
    for field in _PLANNED:
        replicas[field] = [int(getattr(plan, field)) for plan in plans]
    replicas["slowdown"] = 1.0
    replicas["schedule_at"] = np.inf
    for field in ("wait_head", "wait_tail", "ledger_head", "ledger_tail", "await_head", "await_tail"):
        replicas[field] = -1
    return replicas


def _tables(plans: list[HardwarePlan]) -> Tables:
    hardware: Any = records(Hardware, len(plans))
    parts: list[Floats] = []

    def add(table: Floats) -> int:
        """Append a table and return where it begins in the flat array."""
        parts.append(table.ravel())
        return sum(len(part) for part in parts[:-1])

    for row, plan in zip(hardware, plans, strict=True):
        tokens, cpu = plan.token_seconds(), plan.cpu_seconds()
        decode, prefill = plan.decode_seconds(), plan.prefill_seconds()
        row.token_table, row.token_length = add(tokens), len(tokens)
        row.send_table = add(plan.send_seconds())
        row.decode_table, (row.decode_rows, row.decode_columns) = add(decode), decode.shape
        row.prefill_table, (row.prefill_rows, row.prefill_columns) = add(prefill), prefill.shape
        row.cpu_table, row.cpu_length = add(cpu), len(cpu)
        row.kv_step, row.chunk_step = plan.tables.kv_granularity, plan.tables.chunk_granularity
        row.prefill_overhead = 1.0 + plan.prefill_batching_overhead
    return Tables(hardware, np.concatenate(parts))


def _books(plans: list[ReplicaPlan], requests: int, options: EngineOptions) -> Books:
    replicas, memory = len(plans), np.ascontiguousarray(np.atleast_2d(options.memory))
    routers = len(memory)
    shown = observation.LEDGER_COLUMNS + observation.QUEUE_COLUMNS * options.queue_depth
    return Books(
        ledger=np.zeros((replicas, observation.LEDGER_COLUMNS + (routers if routers > 1 else 0))),
        completions=np.zeros((routers, observation.COMPLETION_COLUMNS)),
        gauges=np.zeros((replicas, observation.GAUGE_COLUMNS)),
        hardware=hardware_facts(plans),
        observed=np.zeros((replicas, shown)),
        arrival=np.zeros(observation.ARRIVAL_COLUMNS),
        available=np.array([int(plan.present) for plan in plans], np.int64),
        memory=memory,
        draws=np.ascontiguousarray(options.draws) if len(options.draws) else np.zeros((requests, 2)),
        routed=np.zeros(routers, np.int64),
        prefix=prefill_costs(plans, routers),
    )


def _clock(table: RequestTable, events: int, books: Books, options: EngineOptions, kv_events: bool) -> Any:
    clock: Any = records(Clock, 1)
    row, requests = clock[0], len(table)
    row.closed_loop = int(table.turns is not None)
    row.indexed = int(options.index is not None)
    row.kv_events = int(kv_events)
    row.time_limit, row.gauge_interval, row.gauges_at = options.time_limit, options.gauge_interval, -1.0
    row.num_arrivals, row.num_decisions, row.num_timers = requests, min(requests, 1), events
    row.chosen, row.num_available, row.records = -1, books.available.sum(), int(options.record_rows)
    # The engine's ledger covers all routers; each router's own must be counted for it.
    row.observed = 2 if len(books.memory) > 1 and options.observed == 1 else options.observed
    return clock


def plain(array: Any) -> NDArray[Any]:
    """The same records for Python, whose columns are plain arrays: those of an np.recarray take ten times as long."""
    columns: NDArray[Any] = array.view(np.ndarray).view(np.dtype(array.dtype.descr))
    return columns


class FastRecord:
    """The first record of an array, for Python: a field takes a tenth of the time that it takes from an np.record."""

    def __init__(self, array: Any) -> None:
        columns = plain(array[:1])
        object.__setattr__(self, "_fields", {name: columns[name] for name in array.dtype.names})

    def __getattr__(self, name: str) -> Any:
        if name not in self._fields:
            raise AttributeError(f"there is no field {name}")
        return self._fields[name].item()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._fields:
            raise AttributeError(f"there is no field {name}")
        self._fields[name][0] = value


class Engine:
    """Holds the state of one simulation and the address by which kernels take it.

    events, float64[events, 4]: seconds, replica, action (vidur.engine.cluster), factor; sorted by time.
    """

    def __init__(
        self,
        table: RequestTable,
        replica_plans: list[ReplicaPlan],
        hardware_plans: list[HardwarePlan],
        events: Floats,
        options: EngineOptions,
    ) -> None:
        self.options = options
        count, replicas, events = len(table), len(replica_plans), events.reshape(-1, 4)
        stages = max(plan.stages for plan in replica_plans)
        capacity = max(max(plan.max_admitted, plan.stages * plan.max_batch) for plan in replica_plans) + 1
        # Untouched rows cost no memory, so reserve what requests usually need: a row per batch and stage in a pipeline,
        # a row per change of the batch otherwise.
        rows = 4096 + count * (200 * stages if stages > 1 else 20) if options.record_rows else 0
        books = _books(replica_plans, count, options)
        service: Any = records(Stage, replicas, stages)
        service["ends_at"], service["slot"] = np.inf, -1
        events_mode = options.index is not None and options.index.mode == EVENTS and known(table, replica_plans)
        channels, kv_events = make_channels(replica_plans, events_mode)
        self.state = State(
            requests=_requests(table, options.routers),
            replicas=_replicas(replica_plans),
            next_time=np.full(replicas, np.inf),
            ready=np.zeros((replicas, capacity), np.int64),
            batches=records(Batch, replicas, stages),
            members=records(Member, replicas, stages, capacity),
            stages=service,
            stage_queue=np.zeros((replicas, stages, stages), np.int64),
            # A bound on the followers of one instant: each ending stage adds two, and a batch may cross idle stages.
            followers=records(Follower, 64 + 16 * stages * stages),
            clock=_clock(table, len(events), books, options, events_mode),
            decisions=_first_decision(table),
            timers=_event_timers(events),
            events=_events(events),
            tables=_tables(hardware_plans),
            books=books,
            log=Log(
                records(Row, rows),
                np.zeros(options.member_rows + 1, np.int64),
                records(Member, min(options.member_rows * capacity, _MOST_MEMBERS)),
            ),
            chains=make_chains(table, replica_plans),
            cache=make_cache(table, replica_plans),
            indexes=make_index(table, replica_plans, options),
            index_rules=make_rules(table, replica_plans, options),
            hooks=make_hooks(
                any(plan.caching for plan in replica_plans), options.index is not None, table.turns is not None
            ),
            channels=channels,
            kv_events=kv_events,
            event_draws=np.zeros(0) if options.index is None else options.index.draws,
            following=make_following(table),
            prefixes=make_prefixes(table, replica_plans, options),
            turns=make_turns(table),
        )
        self.clock: Any = FastRecord(self.state.clock)
        """The record of vidur.engine.state.Clock."""
        self._describe()

    def _describe(self) -> None:
        self._words = describe(self.state)
        self.address: Any = int(self._words.ctypes.data) if COMPILED else self.state

    @property
    def requests(self) -> Any:
        """The records of vidur.engine.state.Request."""
        return self.state.requests

    @property
    def books(self) -> Books:
        return self.state.books

    @cached_property
    def _changing(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a simulation without recorded rows changes; records as int64[..., fields]."""
        books = self.state.books._asdict()
        parts = {**self.state._asdict(), **books, "hardware": None, "draws": None}
        for constant in (
            "events",
            "tables",
            "books",
            "log",
            "chains",
            "cache",
            "indexes",
            "index_rules",
            "following",
            "event_draws",
            "hooks",
        ):
            parts[constant] = None
        for cache in ("cache", "indexes"):
            for name, array in getattr(self.state, cache)._asdict().items():
                parts[f"{cache}.{name}"] = array
        return {name: _as_numbers(array) for name, array in parts.items() if array is not None}

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copy everything that a simulation without recorded rows changes."""
        return {name: array.copy() for name, array in self._changing.items()}

    def restore(self, snapshot: Mapping[str, NDArray[Any]], requests: int | None = None) -> None:
        """Return to `snapshot`, taken from an engine of the same shape; only the first `requests` requests if given."""
        for name, array in self._changing.items():
            rows = requests if name in ("requests", "prefixes", "turns") else None
            array[:rows] = snapshot[name][:rows]

    def grow_rows(self) -> None:
        """Double the room for recorded rows."""
        log: Any = self.state.log
        used = int(self.clock.num_rows)
        rows: Any = records(Row, 2 * len(log.rows))
        rows[:used] = log.rows[:used]
        self.state = self.state._replace(log=log._replace(rows=rows))
        self._describe()

    def recording(self, partial: bool) -> Recording:
        """Return the recording up to now."""
        clock, log = self.clock, self.state.log
        rows: Any = log.rows[: int(clock.num_rows)]
        members, used = None, log.members[: int(clock.num_members)]
        member_columns: Any = used
        if self.options.member_rows:
            offsets = log.member_offsets[: int(clock.num_member_rows) + 1].copy()
            members = (offsets, member_columns["request"].astype(np.int32))
        requests: Any = self.state.requests
        return Recording(
            requests=self._request_columns(),
            batches={name: rows[name].copy() for name in record_dtype(Row).names or () if name != "unused"},
            replicas=self._replica_columns(),
            end_time=float(clock.ended_at),
            partial=partial or bool((requests["status"] == UNFINISHED).any()),
            routing_decisions=int(self.state.books.routed.sum()),
            members=members,
            member_tokens=member_columns["tokens"].astype(np.int32) if members is not None else None,
        )

    def _request_columns(self) -> Columns:
        requests: Any = self.state.requests
        return {
            "arrived_at": requests["arrived_at"].copy(),
            "num_prefill_tokens": requests["prompt"].copy(),
            "num_decode_tokens": requests["output"].copy(),
            "replica": requests["replica"].astype(np.int32),
            "scheduled_at": requests["scheduled_at"].copy(),
            "prefill_completed_at": requests["first_token_at"].copy(),
            "completed_at": requests["completed_at"].copy(),
            "execution_time": requests["execution_time"].copy(),
            "preempted_time": requests["preempted_time"].copy(),
            "num_restarts": requests["restarts"].copy(),
            "num_reroutes": requests["reroutes"].copy(),
            "status": requests["status"].astype(np.int8),
            **self._prefix_columns(),
        }

    def _prefix_columns(self) -> Columns:
        prefixes: Any = self.state.prefixes
        columns: Columns = {}
        if len(self.state.cache.pools):
            columns["num_cached_tokens"] = np.maximum(prefixes["cached"], 0)
            if self.clock.indexed:
                columns["num_believed_tokens"] = prefixes["matched"].copy()
        return columns

    def _replica_columns(self) -> Columns:
        replicas: Any = self.state.replicas
        stages: Any = self.state.stages
        columns: Columns = {
            "num_blocks": replicas["num_blocks"].copy(),
            "num_requests": replicas["num_placed"].copy(),
            "num_preemptions": replicas["preemptions"].copy(),
            "num_batches": replicas["iterations"].copy(),
            "attention_token_pairs": replicas["attention_pairs"].copy(),
            "group": replicas["hardware"].astype(np.int32),
        }
        pools: Any = self.state.cache.pools
        if len(pools):
            for name in ("query_tokens", "hit_tokens", "evicted_blocks", "evicted_age"):
                columns[name] = pools[name].copy()
            costs = self.state.books.prefix[0]
            columns["prefill_token_seconds"] = costs[:, observation.TOKEN_SECONDS].copy()
            columns["prefill_pair_seconds"] = costs[:, observation.PAIR_SECONDS].copy()
        for stage in range(stages.shape[1]):
            columns[f"busy_time_stage{stage}"] = stages["busy_time"][:, stage].copy()
        return columns


def _as_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """View records as int64[..., words]; other arrays unchanged."""
    if array.dtype.names is None:
        return array
    return array.view(np.ndarray).view(np.int64).reshape(*array.shape, array.dtype.itemsize // 8)


def _first_decision(table: RequestTable) -> Any:
    """Make the queue of routing decisions. It holds the first arrival; routing it queues the next one."""
    decisions: Any = records(Timer, len(table) + 1)
    if len(table):
        decisions[0].time, decisions[0].kind = table.arrived_at[0], ARRIVED
    return decisions


def _events(events: Floats) -> Any:
    rows: Any = records(Event, len(events))
    for column, field in enumerate(("time", "replica", "action", "factor")):
        rows[field] = events[:, column]
    return rows


def _event_timers(events: Floats) -> Any:
    """Make the heap of timers with every event, ordered within an instant, and room for one gauge timer."""
    timers: Any = records(Timer, len(events) + 1)
    # A sorted array is a heap.
    timers["time"][:-1], timers["kind"][:-1] = events[:, 0], EVENT
    timers["number"][:-1] = timers["subject"][:-1] = np.arange(len(events))
    return timers


__all__ = ["Engine"]
