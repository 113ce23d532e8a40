"""What a simulation is made from: plans of replicas and hardware, and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vidur import observation
from vidur.engine.state import Floats, Ints

if TYPE_CHECKING:
    from vidur.execution_time_predictor.tables import ExecutionTimeTables

UNLIMITED = 1 << 40


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

    def _rounded_tokens(self) -> tuple[Ints, Ints]:
        """The numbers of tokens that the tables hold, from 0, and what each is rounded up to."""
        step = self.tables.token_rounding
        tokens = np.arange(self.tables.max_tokens // step * step + 1)
        return tokens, -(-tokens // step) * step

    def token_seconds(self) -> Floats:
        """float64[max_tokens + 1]: a stage's time for the operations that depend on the number of tokens alone.

        Source: microsoft/vidur, entities/execution_time.py and batch.py.
        """
        tokens, rounded = self._rounded_tokens()
        total = np.zeros(len(tokens))
        for op, milliseconds in self.tables.layer_operations():
            overhead = self.nccl_overhead_ms if op.is_collective else 0.0
            total += op.times_per_layer * (milliseconds[rounded if op.rounded else tokens] + overhead)
        return total * self.layers_per_stage * 1e-3 * self.time_factor

    def send_seconds(self) -> Floats:
        """float64[max_tokens + 1]: the transfer to the next stage."""
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
    """One replica: its hardware group and its limits (vidur.engine.state.Replica). Tokens, blocks, requests.

    speed: relative to the fastest replica. prefill_seconds of a prompt token, decode_seconds of an iteration: what a
    router is told (vidur.observation). present: whether it is there from the start.
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
    present: bool = True


@dataclass(frozen=True)
class EngineOptions:
    """Seconds and counts. record_rows: whether batches are recorded; member_rows: for how many rows their members are.

    observed: see vidur.engine.state.Clock; at 0 replicas are brought up to now only when they are chosen. queue_depth:
    of how many requests without a first token, per replica, a router sees age and prompt. routers: at which of several
    routers each request comes in, int64[requests]; the first if empty. memory: of the router; float64[routers, ...] if
    there are several.
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
