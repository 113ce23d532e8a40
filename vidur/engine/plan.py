"""Plans of replicas and hardware, and engine options: the inputs of a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vidur import observation
from vidur.engine.state import Floats, Ints
from vidur.prefix_index import IndexOptions

if TYPE_CHECKING:
    from vidur.execution_time_predictor.tables import ExecutionTimeTables

UNLIMITED = 1 << 40


@dataclass(frozen=True)
class HardwarePlan:
    """One hardware group: its tables and the factors that turn them into a stage's seconds.

    nccl_overhead_ms: added to each all-reduce. time_factor: multiplies all times. The batching overheads are
    fractions for batches of several requests; 0 for models without grouped-query attention.
    """

    tables: ExecutionTimeTables
    layers_per_stage: int
    decode_batching_overhead: float = 0.0
    prefill_batching_overhead: float = 0.0
    nccl_overhead_ms: float = 0.0
    time_factor: float = 1.0

    def _rounded_tokens(self) -> tuple[Ints, Ints]:
        """Return all token counts of the tables, and each rounded up to the tables' step."""
        step = self.tables.token_rounding
        tokens = np.arange(self.tables.max_tokens // step * step + 1)
        return tokens, -(-tokens // step) * step

    def token_seconds(self) -> Floats:
        """float64[max_tokens + 1]: a stage's time for the operations that depend only on the number of tokens.

        Source: microsoft/vidur, entities/execution_time.py and batch.py.
        """
        tokens, rounded = self._rounded_tokens()
        total = np.zeros(len(tokens))
        for op, milliseconds in self.tables.layer_operations():
            overhead = self.nccl_overhead_ms if op.is_collective else 0.0
            total += op.times_per_layer * (milliseconds[rounded if op.rounded else tokens] + overhead)
        return total * self.layers_per_stage * 1e-3 * self.time_factor

    def send_seconds(self) -> Floats:
        """float64[max_tokens + 1]: seconds of the transfer to the next stage."""
        _, rounded = self._rounded_tokens()
        transfer = self.tables.transfer
        return np.zeros(len(rounded)) if transfer is None else transfer[rounded] * (1e-3 * self.time_factor)

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
    """One replica: its hardware group and its limits in tokens, blocks and requests (vidur.engine.state.Replica).

    speed: relative to the fastest replica. prefill_seconds (per prompt token) and decode_seconds (per iteration) are
    facts for routers (vidur.observation), as are the seconds of a prefill per token and per pair of a new and an
    earlier token, and those of reading the weights. present: whether the replica is up at the start. caching:
    whether it caches prefixes.
    """

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
    order: int = 0
    prefill_threshold: int = 0
    max_prompt_tokens: int = UNLIMITED
    speed: float = 1.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    token_seconds: float = 0.0
    pair_seconds: float = 0.0
    weights_seconds: float = 0.0
    present: bool = True
    caching: bool = False


@dataclass(frozen=True)
class IndexPlan:
    """How routers know prefix caches: a mode of vidur.engine.index, and how they index what they place.

    delay: seconds until a KV event arrives. loss: probability that it does not; draws: uniform random numbers for it.
    """

    mode: int
    options: IndexOptions = field(default_factory=IndexOptions)
    delay: float = 0.0
    loss: float = 0.0
    draws: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine.

    time_limit, gauge_interval: seconds. record_rows: whether to record batches; member_rows: rows that also record
    members. observed: see vidur.engine.state.Clock; at 0 a replica is advanced only when chosen. queue_depth: requests
    awaiting a first token, per replica, whose age and prompt a router sees. routers, int64[requests]: the router of
    each request; empty for one router. memory: float64[...], or [routers, ...]. draws: float64[requests, 2]. index: of
    prefixes, None if routers keep none.
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
    index: IndexPlan | None = None


def prefill_costs(plans: list[ReplicaPlan], routers: int) -> Floats:
    """float64[routers, replicas, PREFIX_COLUMNS]: what routers believe of prefix caches before the first request."""
    costs = np.zeros((routers, len(plans), observation.PREFIX_COLUMNS))
    costs[:, :, observation.TOKEN_SECONDS] = [plan.token_seconds for plan in plans]
    costs[:, :, observation.PAIR_SECONDS] = [plan.pair_seconds for plan in plans]
    costs[:, :, observation.WEIGHTS_SECONDS] = [plan.weights_seconds for plan in plans]
    return costs


def hardware_facts(plans: list[ReplicaPlan]) -> Floats:
    """float64[replicas, HARDWARE_COLUMNS]: the hardware facts that routers see."""
    facts = np.zeros((len(plans), observation.HARDWARE_COLUMNS))
    for row, plan in zip(facts, plans, strict=True):
        row[observation.SPEED] = plan.speed
        row[observation.KV_TOKENS] = plan.num_blocks * plan.block_size
        row[observation.MAX_BATCH_SIZE] = plan.max_admitted
        row[observation.GROUP_INDEX] = plan.hardware
        row[observation.PREFILL_SECONDS] = plan.prefill_seconds
        row[observation.DECODE_SECONDS] = plan.decode_seconds
    return facts
