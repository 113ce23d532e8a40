"""The engine's arrays, made from plans; and the recording made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidur.engine import layout as at
from vidur.engine.arrays import Arrays, Floats, Ints
from vidur.engine.pipeline import BATCH_TIMES
from vidur.engine.recording import UNFINISHED, Recording
from vidur.scheduler import observation

if TYPE_CHECKING:
    from vidur.execution_time_predictor.tables import ExecutionTimeTables
    from vidur.request_generator.request_table import RequestTable

UNLIMITED = 1 << 40

_ARRAYS = attrgetter(*Arrays._fields)


@dataclass(frozen=True)
class HardwarePlan:
    """One hardware group: its tables and what turns them into the seconds of a stage.

    nccl_overhead_ms: added to each all-reduce. time_factor: multiplies all times. The batching overheads are
    fractions, for more than one request; 0 for models without grouped-query attention.
    """

    tables: ExecutionTimeTables
    layers_per_stage: int
    decode_batching_overhead: float = 0.0
    prefill_batching_overhead: float = 0.0
    nccl_overhead_ms: float = 0.0
    time_factor: float = 1.0

    def _tokens(self) -> tuple[Ints, Ints]:
        """The numbers of tokens that the tables hold, from 0, and what each is rounded up to."""
        step = self.tables.token_rounding
        tokens = np.arange(self.tables.max_tokens // step * step + 1)
        return tokens, -(-tokens // step) * step

    def token_seconds(self) -> Floats:
        """float64[max_tokens + 1]: a stage's time for the operations that depend on the number of tokens alone.

        Linear operations run at the tokens rounded up (to 8, by upstream's predictors), the KV-cache write at the exact
        number; all-reduce runs twice a layer. Source: microsoft/vidur, entities/execution_time.py and batch.py.
        """
        tables = self.tables
        tokens, rounded = self._tokens()
        total = np.zeros(len(tokens))
        for op, milliseconds in tables.linear.items():
            if op == "send_recv":
                continue
            if op == "all_reduce":
                total += 2.0 * (milliseconds[rounded] + self.nccl_overhead_ms)
            else:
                total += milliseconds[tokens if op == "attn_kv_cache_save" else rounded]
        return total * self.layers_per_stage * 1e-3 * self.time_factor

    def send_seconds(self) -> Floats:
        """float64[max_tokens + 1]: the transfer to the next stage."""
        _, rounded = self._tokens()
        if "send_recv" not in self.tables.linear:
            return np.zeros(len(rounded))
        return self.tables.linear["send_recv"][rounded] * (1e-3 * self.time_factor)

    def decode_seconds(self) -> Floats:
        seconds = self.tables.attn_decode * (self.layers_per_stage * 1e-3 * self.time_factor)
        seconds[2:] *= 1.0 + self.decode_batching_overhead
        return seconds

    def prefill_seconds(self) -> Floats:
        return self.tables.attn_prefill * (self.layers_per_stage * 1e-3 * self.time_factor)

    def cpu_seconds(self) -> Floats:
        curves = list(self.tables.cpu.values())
        if not curves:
            return np.zeros(0)
        length = min(len(curve) for curve in curves)
        return np.sum([curve[:length] for curve in curves], axis=0) * (1e-3 * self.time_factor)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ReplicaPlan:
    """One replica: its hardware group and its limits (columns of vidur.engine.layout). Tokens, blocks, requests."""

    hardware: int
    num_blocks: int
    block_size: int
    max_batch: int
    max_admitted: int
    token_limit: int
    max_request_tokens: int
    stages: int = 1
    max_blocks_per_request: int = 0
    watermark: int = 0
    max_waiting_iters: int = 0
    grows: bool = True
    hold_until_batch_ends: bool = False
    prefill_threshold: int = 0
    max_prompt_tokens: int = UNLIMITED
    speed: float = 1.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    present: bool = True


@dataclass(frozen=True)
class EngineOptions:
    """Seconds and counts. record_rows: whether batches are recorded; member_rows: for how many rows their members are.

    observed: see OBSERVED in vidur.engine.layout; at 0 replicas are brought up to now only when they are chosen.
    queue_depth: of how many requests without a first token, per replica, a router sees age and prompt.
    routers: at which of several routers each request comes in, int64[requests]; the first if empty. memory: of the
    router; float64[routers, ...] if there are several.
    """

    time_limit: float = np.inf
    gauge_interval: float = 0.0
    record_rows: bool = True
    member_rows: int = 0
    observed: int = 2
    queue_depth: int = 0
    routers: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    memory: Floats = field(default_factory=lambda: np.zeros(1))
    draws: Floats = field(default_factory=lambda: np.zeros((0, 2)))


def _flatten(parts: list[Floats], groups: Ints, column: int) -> Floats:
    """All tables of one kind in one flat array; where each starts goes into `groups[:, column]`."""
    groups[:, column] = np.cumsum([0, *(part.size for part in parts)])[:-1]
    return np.ascontiguousarray(np.concatenate([part.ravel() for part in parts]))


def hardware_facts(plans: list[ReplicaPlan]) -> Floats:
    """float64[replicas, HARDWARE_COLUMNS]: what a router is told of the hardware."""
    facts = np.zeros((len(plans), observation.HARDWARE_COLUMNS))
    for row, plan in zip(facts, plans, strict=True):
        row[observation.SPEED] = plan.speed
        row[observation.KV_TOKENS] = plan.num_blocks * plan.block_size
        row[observation.MAX_BATCH_SIZE] = plan.max_admitted
        row[observation.GROUP_INDEX] = plan.hardware
        row[observation.PREFILL_SECONDS] = plan.prefill_seconds
        row[observation.DECODE_SECONDS] = plan.decode_seconds
    return facts


class EngineState:
    """The arrays that `vidur.engine.cluster.run` takes, in its order, as attributes."""

    def __init__(
        self,
        table: RequestTable,
        replica_plans: list[ReplicaPlan],
        hardware_plans: list[HardwarePlan],
        events: Floats,
        options: EngineOptions,
    ) -> None:
        self.options = options
        count, replicas = len(table), len(replica_plans)
        stages = max(plan.stages for plan in replica_plans)
        capacity = max(max(plan.max_admitted, plan.stages * plan.max_batch) for plan in replica_plans) + 1
        self._set_requests(table)
        if len(options.routers):
            self.requests[:, at.ROUTER] = options.routers
        self._set_replicas(replica_plans)
        self.ready = np.zeros((replicas, capacity), np.int64)
        self.batch_requests = np.zeros((replicas, stages, capacity), np.int64)
        self.batch_tokens = np.zeros((replicas, stages, capacity), np.int64)
        self.batches = np.zeros((replicas, stages, at.BATCH_INTS), np.int64)
        self.busy = np.zeros((replicas, stages))
        self._set_tables(hardware_plans)
        self.memory = np.atleast_2d(options.memory)
        routers = len(self.memory)
        self.ledger = np.zeros((replicas, observation.LEDGER_COLUMNS + (routers if routers > 1 else 0)))
        self.completions = np.zeros((routers, observation.COMPLETION_COLUMNS))
        self.cluster = np.zeros(at.DECISIONS + routers, np.int64)
        self.cluster[at.NUM_ARRIVALS] = count
        self.cluster[at.CHOSEN] = -1
        # The engine's own ledger is of all routers.
        self.cluster[at.OBSERVED] = 2 if routers > 1 and options.observed == 1 else options.observed
        self.cluster_floats = np.zeros(at.CLUSTER_FLOATS)
        self.cluster_floats[at.TIME_LIMIT] = options.time_limit
        self.cluster_floats[at.GAUGE_INTERVAL] = options.gauge_interval
        self.cluster_floats[at.GAUGES_AT] = -1.0
        # Untouched rows cost no memory, so there is room for what a request usually takes: every batch is a row where
        # a replica has several stages, every change of the batch where it has one.
        rows = 4096 + count * (200 * stages if stages > 1 else 20) if options.record_rows else 0
        self.row_floats = np.empty((rows, len(at.ROW_FLOATS)))
        self.row_ints = np.empty((rows, len(at.ROW_INTS)), np.int32)
        self.member_offsets = np.zeros(options.member_rows + 1, np.int64)
        self.members = np.zeros((min(options.member_rows * capacity, 1 << 24), 2), np.int64)
        self.batch_times = np.zeros((replicas, stages, BATCH_TIMES))
        self.stage_ends = np.full((replicas, stages, 3), np.inf)
        self.stage_state = np.zeros((replicas, stages, 4 + stages), np.int64)
        self.stage_state[:, :, 0] = -1
        # Each stage that ends at an instant brings few more events: two, a batch, and its way through idle stages.
        self.followers = np.zeros((64 + 16 * stages * stages, 2), np.int64)
        self.sessions = np.stack([table.session_id, table.priority], axis=1)
        self.events = np.ascontiguousarray(events.reshape(-1, 4))
        self.held = np.zeros(max(count, 1), np.int64)
        self.gauges = np.zeros((replicas, observation.GAUGE_COLUMNS))
        self.hardware = hardware_facts(replica_plans)
        columns = observation.LEDGER_COLUMNS + observation.QUEUE_COLUMNS * options.queue_depth
        self.observed = np.zeros((replicas, columns))
        self.arrival = np.zeros(observation.ARRIVAL_COLUMNS)
        self.available = np.array([int(plan.present) for plan in replica_plans], np.int64)
        self.cluster[at.NUM_AVAILABLE] = self.available.sum()
        self.draws = options.draws if len(options.draws) else np.zeros((count, 2))

    def _set_requests(self, table: RequestTable) -> None:
        count = len(table)
        self.times = np.full((count, at.REQUEST_FLOATS), np.nan)
        self.times[:, at.ARRIVED] = table.arrived_at
        for column in (at.EXECUTION, at.PREEMPTED, at.LAST_END):
            self.times[:, column] = 0.0
        self.requests = np.zeros((count, at.REQUEST_INTS), np.int64)
        self.requests[:, at.PREFILL] = self.requests[:, at.PROMPT] = table.num_prefill_tokens
        self.requests[:, at.OUTPUT] = table.num_decode_tokens
        self.requests[:, at.TOTAL] = table.num_prefill_tokens + table.num_decode_tokens
        self.requests[:, at.REPLICA] = -1

    def _set_replicas(self, plans: list[ReplicaPlan]) -> None:
        self.next_time = np.full(len(plans), np.inf)
        self.replica_floats = np.zeros((len(plans), at.REPLICA_FLOATS))
        self.replica_floats[:, at.SLOWDOWN] = 1.0
        self.replica_floats[:, at.SCHEDULE_AT] = np.inf
        self.replicas = np.zeros((len(plans), at.REPLICA_INTS), np.int64)
        columns = {
            at.HARDWARE: "hardware",
            at.STAGES: "stages",
            at.NUM_BLOCKS: "num_blocks",
            at.BLOCK_SIZE: "block_size",
            at.MAX_BLOCKS_PER_REQUEST: "max_blocks_per_request",
            at.WATERMARK: "watermark",
            at.MAX_BATCH: "max_batch",
            at.MAX_ADMITTED: "max_admitted",
            at.TOKEN_LIMIT: "token_limit",
            at.MAX_WAITING_ITERS: "max_waiting_iters",
            at.GROWS: "grows",
            at.HOLD_UNTIL_BATCH_ENDS: "hold_until_batch_ends",
            at.PREFILL_THRESHOLD: "prefill_threshold",
            at.MAX_REQUEST_TOKENS: "max_request_tokens",
            at.MAX_PROMPT_TOKENS: "max_prompt_tokens",
        }
        for column, name in columns.items():
            self.replicas[:, column] = [int(getattr(plan, name)) for plan in plans]
        for column in (at.WAIT_HEAD, at.WAIT_TAIL, at.LEDGER_HEAD, at.LEDGER_TAIL, at.AWAIT_HEAD, at.AWAIT_TAIL):
            self.replicas[:, column] = -1

    def _set_tables(self, plans: list[HardwarePlan]) -> None:
        groups = np.zeros((len(plans), at.GROUP_INTS), np.int64)
        tokens = [plan.token_seconds() for plan in plans]
        self.token_times = _flatten(tokens, groups, at.TOKEN_TABLE)
        groups[:, at.TOKEN_LENGTH] = [len(part) for part in tokens]
        self.send_times = _flatten([plan.send_seconds() for plan in plans], groups, at.TOKEN_TABLE)
        self.decode_times = _flatten([plan.decode_seconds() for plan in plans], groups, at.DECODE_TABLE)
        self.prefill_times = _flatten([plan.prefill_seconds() for plan in plans], groups, at.PREFILL_TABLE)
        cpu = [plan.cpu_seconds() for plan in plans]
        self.cpu_times = _flatten(cpu, groups, at.CPU_TABLE)
        groups[:, at.CPU_LENGTH] = [len(part) for part in cpu]
        groups[:, [at.DECODE_ROWS, at.DECODE_COLUMNS]] = [plan.tables.attn_decode.shape for plan in plans]
        groups[:, [at.PREFILL_ROWS, at.PREFILL_COLUMNS]] = [plan.tables.attn_prefill.shape for plan in plans]
        groups[:, at.KV_STEP] = [plan.tables.kv_granularity for plan in plans]
        groups[:, at.CHUNK_STEP] = [plan.tables.chunk_granularity for plan in plans]
        self.groups = groups
        self.prefill_overhead = np.array([1.0 + plan.prefill_batching_overhead for plan in plans])

    def run_arguments(self) -> Arrays:
        """The arrays that `run` takes after its three numbers."""
        return Arrays._make(_ARRAYS(self))

    def place_arguments(self) -> tuple[NDArray[Any], ...]:
        """The arrays that `place` takes, after the request and the replica."""
        return (
            self.next_time, self.times, self.requests, self.replicas, self.replica_floats, self.ledger, self.cluster,
            self.cluster_floats,
        )  # fmt: skip

    def grow_rows(self) -> None:
        """Make room for twice as many rows."""
        used = self.cluster[at.ROWS]
        for name in ("row_floats", "row_ints"):
            before = getattr(self, name)
            after = np.empty((2 * len(before), before.shape[1]), before.dtype)
            after[:used] = before[:used]
            setattr(self, name, after)

    def recording(self, partial: bool) -> Recording:
        """What has happened so far."""
        rows = int(self.cluster[at.ROWS])
        batches: dict[str, NDArray[Any]] = {
            name: self.row_ints[:rows, column].copy() for column, name in enumerate(at.ROW_INTS)
        }
        for column, name in enumerate(at.ROW_FLOATS):
            values = self.row_floats[:rows, column]
            batches[name] = values.astype(np.int64) if name == "batch_id" else values.copy()
        member_rows = int(self.cluster[at.MEMBER_ROWS])
        used = int(self.cluster[at.MEMBERS])
        members = None
        if self.options.member_rows:
            members = (self.member_offsets[: member_rows + 1].copy(), self.members[:used, 0].astype(np.int32))
        return Recording(
            requests=self._request_columns(),
            batches=batches,
            replicas=self._replica_columns(),
            end_time=float(self.cluster_floats[at.ENDED_AT]),
            partial=partial or bool((self.requests[:, at.STATUS] == UNFINISHED).any()),
            routing_decisions=int(self.cluster[at.DECISIONS :].sum()),
            members=members,
            member_tokens=self.members[:used, 1].astype(np.int32) if members is not None else None,
        )

    def _request_columns(self) -> dict[str, NDArray[Any]]:
        times, requests = self.times, self.requests
        return {
            "arrived_at": times[:, at.ARRIVED].copy(),
            "num_prefill_tokens": requests[:, at.PROMPT].copy(),
            "num_decode_tokens": requests[:, at.OUTPUT].copy(),
            "replica": requests[:, at.REPLICA].astype(np.int32),
            "scheduled_at": times[:, at.SCHEDULED].copy(),
            "prefill_completed_at": times[:, at.FIRST_TOKEN].copy(),
            "completed_at": times[:, at.COMPLETED].copy(),
            "execution_time": times[:, at.EXECUTION].copy(),
            "preempted_time": times[:, at.PREEMPTED].copy(),
            "num_restarts": requests[:, at.RESTARTS].copy(),
            "num_reroutes": requests[:, at.REROUTES].copy(),
            "status": requests[:, at.STATUS].astype(np.int8),
        }

    def _replica_columns(self) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = {
            "num_blocks": self.replicas[:, at.NUM_BLOCKS].copy(),
            "num_requests": self.replicas[:, at.NUM_PLACED].copy(),
            "num_preemptions": self.replicas[:, at.PREEMPTIONS].copy(),
            "num_batches": self.replicas[:, at.ITERATIONS].copy(),
            "attention_token_pairs": self.replica_floats[:, at.ATTENTION_PAIRS].copy(),
            "group": self.replicas[:, at.HARDWARE].astype(np.int32),
        }
        for stage in range(self.busy.shape[1]):
            columns[f"busy_time_stage{stage}"] = self.busy[:, stage].copy()
        return columns
