"""Turn a configuration into the engine's plans: replica limits, hardware groups and timed events."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vidur.scheduler.batching  # noqa: F401, registers the batchers
from vidur.config import (
    BaseExecutionTimePredictorConfig,
    ClusterConfig,
    ReplicaConfig,
    ReplicaEventConfig,
    ResolvedGroup,
    SimulationConfig,
)
from vidur.engine.cluster import DRAIN, FAIL, JOIN, RETURN, SLOW
from vidur.engine.index import CORRECTED, EVENTS, ORACLE, OWN
from vidur.engine.plan import HardwarePlan, IndexPlan, ReplicaPlan
from vidur.engine.plug import BATCHERS, Batcher
from vidur.engine.state import Floats
from vidur.errors import InputError
from vidur.execution_time_predictor import TableBounds, build_tables
from vidur.memory_planner import MemoryPlan, plan_groups
from vidur.prefix_index import IndexOptions
from vidur.request_generator import RequestTable
from vidur.request_generator.content import Content

_EVENT_STREAM, _EVENT_DRAWS = 1 << 20, 65_521
_MODES = {"own": OWN, "corrected": CORRECTED, "oracle": ORACLE, "events": EVENTS}
_ACTIONS = {"slow": SLOW, "fail": FAIL, "return": RETURN, "join": JOIN, "drain": DRAIN}

# The work that defines a replica's relative speed: a prompt in chunks, then decodes in a batch.
_REFERENCE_PROMPT, _REFERENCE_CHUNK, _REFERENCE_OUTPUT, _REFERENCE_BATCH = 1024, 512, 256, 16
_REFERENCE_PAST = 4096


def replica_limits(group: ResolvedGroup, memory: MemoryPlan, batcher: Batcher, content: bool) -> ReplicaPlan:
    """Return the limits of a replica of `group`; `plan_replicas` fills in hardware and speed.

    content: whether the content of requests is known, without which no prefix is cached.
    """
    scheduler, stages = group.replica_scheduler_config, group.replica_config.num_pipeline_stages
    own = batcher.limits(scheduler, memory, stages)
    own["caching"] = content and own.get("caching", 0)
    if own["caching"]:
        # vLLM keeps a block for itself.
        memory = dataclasses.replace(memory, num_blocks=max(memory.num_blocks - 1, 1))
    common: dict[str, Any] = {
        "max_batch": scheduler.batch_size_cap // stages,
        "max_admitted": scheduler.batch_size_cap,
        "token_limit": 0,
        # The last token is never an input, so it takes no room in the KV-cache.
        "max_request_tokens": memory.num_blocks * memory.block_size + 1,
    }
    return ReplicaPlan(
        hardware=0,
        num_blocks=memory.num_blocks,
        block_size=memory.block_size,
        stages=stages,
        max_blocks_per_request=memory.max_blocks_per_request,
        watermark=int(scheduler.watermark_blocks_fraction * memory.num_blocks),
        grows=batcher.grows,
        hold_until_batch_ends=batcher.hold_until_batch_ends,
        order=batcher.order,
        **{**common, **own},
    )


def table_bounds(limits: ReplicaPlan, batcher: Batcher, requests: RequestTable) -> TableBounds:
    """Return bounds on the table lookups that these requests can cause on such a replica."""
    totals = requests.num_prefill_tokens + requests.num_decode_tokens
    longest = min(int(totals.max(initial=1)), limits.max_request_tokens)
    max_batch = max(limits.max_batch, 1)
    if batcher.chunked:
        tokens = max(limits.token_limit, max_batch)
        chunk, prefill_kv = min(longest, tokens), longest * limits.stages
        if limits.stages == 1 and limits.prefill_threshold == 0:
            prefill_kv = longest
        # Several prefills of a batch may have earlier chunks in the KV-cache.
        prefill_kv = prefill_kv * 4 if limits.caching else min(prefill_kv * 2, limits.num_blocks * limits.block_size)
        chunk = tokens
    elif limits.token_limit:
        tokens, chunk, prefill_kv = max(limits.token_limit, max_batch, longest), max(limits.token_limit, longest), 0
    else:
        prompts = np.sort(requests.num_prefill_tokens)[-max_batch:]
        tokens = int(prompts.sum()) + max_batch
        chunk, prefill_kv = int(np.sqrt((prompts.astype(np.float64) ** 2).sum())) + 1, 0
    return TableBounds(
        max_batch_tokens=tokens,
        max_batch_size=max_batch,
        max_context_tokens=longest,
        max_prefill_chunk=chunk,
        max_prefill_kv=prefill_kv,
    )


def plan_hardware(
    predictor: BaseExecutionTimePredictorConfig,
    replica: ReplicaConfig,
    bounds: TableBounds,
    cache: Path | None,
    block_size: int,
) -> HardwarePlan:
    """Build the tables of one group. Batching overheads apply to grouped-query attention only, as upstream."""
    model = replica.model
    grouped = model.num_q_heads > model.num_kv_heads
    skew = predictor.nccl_cpu_skew_overhead_per_device_ms * replica.tensor_parallel_size**1.25
    return HardwarePlan(
        tables=build_tables(predictor, replica, bounds, cache, block_size),
        layers_per_stage=replica.layers_per_stage,
        decode_batching_overhead=predictor.attention_decode_batching_overhead_fraction if grouped else 0.0,
        prefill_batching_overhead=predictor.attention_prefill_batching_overhead_fraction if grouped else 0.0,
        nccl_overhead_ms=predictor.nccl_cpu_launch_overhead_ms + skew,
    )


def reference_seconds(plan: HardwarePlan) -> tuple[float, float]:
    """Return a stage's seconds for a prompt of 1,024 tokens, and for an iteration of 16 decodes."""
    tokens, decode, prefill = plan.token_seconds(), plan.decode_seconds(), plan.prefill_seconds()
    step, chunk_step = plan.tables.kv_granularity, plan.tables.chunk_granularity

    def within(index: int, length: int) -> int:
        return min(index, length - 1)

    seconds = 0.0
    for past in range(0, _REFERENCE_PROMPT, _REFERENCE_CHUNK):
        row = within(past // step, prefill.shape[0])
        column = within(_REFERENCE_CHUNK // chunk_step, prefill.shape[1])
        seconds += tokens[within(_REFERENCE_CHUNK, len(tokens))] + prefill[row, column]
    batch = within(_REFERENCE_BATCH, decode.shape[0])
    iteration = tokens[within(batch, len(tokens))] + decode[batch, within(_REFERENCE_PROMPT // step, decode.shape[1])]
    return float(seconds), float(iteration * _REFERENCE_BATCH / batch)


def prefill_costs(plan: HardwarePlan, limits: ReplicaPlan) -> dict[str, Any]:
    """Return a stage's seconds of a prefill per token and per pair of a new and an earlier token, and of one decode.

    The first two are those of the longest chunk that fits a batch.
    """
    tokens, decode, prefill = plan.token_seconds(), plan.decode_seconds(), plan.prefill_seconds()
    step, chunk_step = plan.tables.kv_granularity, plan.tables.chunk_granularity
    chunk = min(limits.token_limit or _REFERENCE_PROMPT, len(tokens) - 1, (prefill.shape[1] - 1) * chunk_step)
    column = min(max(1, chunk // chunk_step), prefill.shape[1] - 1)
    first, past = float(prefill[0, column]), min(prefill.shape[0] - 1, max(1, _REFERENCE_PAST // step))
    beside = float(prefill[past, column]) - first
    pair = max(beside, 0.0) / (past * step * column * chunk_step) if past else 0.0
    # Half of a chunk's pairs lie within it.
    token = (float(tokens[chunk]) + first) / chunk - pair * chunk / 2
    return {
        "token_seconds": max(token, float(tokens[chunk]) / chunk),
        "pair_seconds": pair,
        "weights_seconds": float(tokens[1] + decode[1, min(1, decode.shape[1] - 1)]),
    }


def plan_replicas(
    config: SimulationConfig, requests: RequestTable
) -> tuple[list[ReplicaPlan], list[HardwarePlan], Batcher]:
    """Return the plans of all replicas and hardware groups, and the batcher. Raises InputError."""
    cluster = config.cluster_config
    batcher = BATCHERS.get(cluster.replica_scheduler_config.get_type())
    cache = Path(config.metrics_config.cache_dir)
    check_block_sizes(cluster.groups, requests.content)
    limits, hardware = [], []
    for group, memory in zip(cluster.groups, plan_groups(config), strict=True):
        limit = replica_limits(group, memory, batcher, requests.content is not None)
        bounds = table_bounds(limit, batcher, requests)
        limits.append(limit)
        predictor, block_size = config.execution_time_predictor_config, group.replica_scheduler_config.block_size
        plan = plan_hardware(predictor, group.replica_config, bounds, cache, block_size)
        hardware.append(dataclasses.replace(plan, time_factor=1.0 / group.speed))
    prefill, decode = np.array([reference_seconds(plan) for plan in hardware]).T
    speeds = 1.0 / (prefill + _REFERENCE_OUTPUT / _REFERENCE_BATCH * decode)
    speeds /= speeds.max()
    costs: list[dict[str, Any]] = [prefill_costs(plan, limit) for plan, limit in zip(hardware, limits, strict=True)]
    absent = _absent_at_start(cluster.replica_events)
    plans: list[ReplicaPlan] = []
    for number, (group, limit) in enumerate(zip(cluster.groups, limits, strict=True)):
        for _ in range(group.num_replicas):
            present = len(plans) not in absent
            stages = group.replica_config.num_pipeline_stages
            plans.append(
                dataclasses.replace(
                    limit,
                    hardware=number,
                    speed=float(speeds[number]),
                    prefill_seconds=float(prefill[number]) * stages / _REFERENCE_PROMPT,
                    decode_seconds=float(decode[number]) * stages,
                    **{name: seconds * stages for name, seconds in costs[number].items()},
                    present=present,
                )
            )
    return plans, hardware, batcher


def check_block_sizes(groups: tuple[ResolvedGroup, ...], content: Content | None) -> None:
    """Raise InputError if the replicas that cache prefixes cannot tell blocks of these contents apart."""
    schedulers = [group.replica_scheduler_config for group in groups]
    caching = [config for config in schedulers if getattr(config, "enable_prefix_caching", False)]
    if content is None or not caching:
        return
    flag, size = caching[0].flag("block_size"), caching[0].block_size
    if any(config.block_size != size for config in caching):
        raise InputError(f"{flag} must be the same in all groups that cache prefixes")
    if content.granularity % size:
        raise InputError(
            f"{flag} {size} does not divide the {content.granularity} tokens of a block of the trace: "
            f"choose a divisor, or turn {caching[0].flag('enable_prefix_caching')} off"
        )


def plan_index(cluster: ClusterConfig, wanted: IndexOptions | None, seed: int) -> IndexPlan | None:
    """Return how routers index prefixes. wanted: what the router asks for; None if it needs no index."""
    if wanted is None:
        return None
    loss = cluster.prefix_index_event_loss
    # A random stream apart from those of the routers.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_EVENT_STREAM,)))
    return IndexPlan(
        mode=_MODES[cluster.prefix_index],
        options=dataclasses.replace(wanted, capacity_factor=wanted.capacity_factor * cluster.prefix_index_capacity),
        delay=cluster.prefix_index_event_delay,
        loss=loss,
        draws=rng.random(_EVENT_DRAWS if loss > 0 else 0),
    )


def event_rows(events: tuple[ReplicaEventConfig, ...]) -> NDArray[np.float64]:
    """float64[events, 4], stably sorted by time (columns: vidur.engine.engine.Engine)."""
    rows: Floats = np.zeros((len(events), 4))
    for row, event in zip(rows, sorted(events, key=lambda event: event.time), strict=True):
        row[:] = (event.time, event.replica, _ACTIONS[event.action], event.factor)
    return rows


def _absent_at_start(events: tuple[ReplicaEventConfig, ...]) -> set[int]:
    """Return the replicas whose first event, other than slowing down, is to join."""
    first: dict[int, str] = {}
    for event in sorted(events, key=lambda event: event.time):
        if event.action != "slow":
            first.setdefault(event.replica, event.action)
    return {replica for replica, action in first.items() if action == "join"}
