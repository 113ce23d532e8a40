"""Break the batches' time down by operation, under upstream's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidur.atomic import open_atomic
from vidur.engine.plan import HardwarePlan
from vidur.engine.recording import Columns
from vidur.metrics.csv_rows import format_rows, header_line
from vidur.metrics.describe import unique

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult

Floats = NDArray[np.float64]

CHUNK_ROWS = 1 << 16

UPSTREAM_NAMES = {"mlp_act": "mlp_activation", "sampler_e2e": "sample_e2e"}
"""Names of operations that differ between upstream's metrics and its predictors."""

LAYER_OPERATIONS = (
    *("mlp_up_proj", "mlp_activation", "mlp_down_proj", "mlp_down_proj_all_reduce", "attn_pre_proj", "attn_post_proj"),
    *("attn_post_proj_all_reduce", "attn_prefill", "attn_kv_cache_save", "attn_decode", "attn_rope"),
)
OTHER_OPERATIONS = ("pipeline_send_recv", "add", "input_layernorm", "post_attention_layernorm")
CPU_OPERATIONS = (
    *("schedule", "sample_e2e", "prepare_inputs_e2e", "model_execution_e2e", "process_model_outputs", "ray_comm_time"),
)
"""Upstream's columns, in its order."""


def layer_times(plan: HardwarePlan, rows: Columns) -> dict[str, Floats]:
    """Return milliseconds of each operation in a layer, by row. The two all-reduces of a layer count separately."""
    tables = plan.tables
    tokens = rows["num_tokens"]
    rounded = _rounded_tokens(plan, rows)
    times = {
        UPSTREAM_NAMES.get(op.name, op.name): curve[rounded if op.rounded else tokens]
        for op, curve in tables.layer_operations()
        if not op.is_collective
    }
    if "all_reduce" in tables.linear:
        all_reduce = tables.linear["all_reduce"][rounded] + plan.nccl_overhead_ms
        times["mlp_down_proj_all_reduce"] = times["attn_post_proj_all_reduce"] = all_reduce
    times["attn_prefill"] = _prefill_times(plan, rows)
    times["attn_decode"] = _decode_times(plan, rows)
    return times


def stage_times(plan: HardwarePlan, rows: Columns, num_stages: int) -> dict[str, Floats]:
    """Return milliseconds of operations once per stage: the transfer, and those that depend on the batch size."""
    times = {UPSTREAM_NAMES.get(op, op): curve[rows["batch_size"]] for op, curve in plan.tables.cpu.items()}
    if plan.tables.transfer is not None:
        transfer = plan.tables.transfer[_rounded_tokens(plan, rows)]
        times["pipeline_send_recv"] = np.where(rows["stage"] < num_stages - 1, transfer, 0.0)
    return times


def _rounded_tokens(plan: HardwarePlan, rows: Columns) -> NDArray[np.int64]:
    step = plan.tables.token_rounding
    return -(-rows["num_tokens"].astype(np.int64) // step) * step


def operation_totals(result: SimulationResult) -> dict[str, float]:
    """Return the seconds of each operation over all replicas, stages and batches, which add up to the busy time.

    Slowing a replica down lengthens all its operations in proportion.
    """
    totals: dict[str, float] = {}
    for plan, num_stages, rows in _chunks_by_group(result):
        times = {name: plan.layers_per_stage * each for name, each in layer_times(plan, rows).items()}
        times |= stage_times(plan, rows, num_stages)
        predicted = np.sum(list(times.values()), axis=0)
        seconds = rows["count"] * rows["iteration_time"] / np.where(predicted > 0, predicted, np.inf)
        for name, each in times.items():
            totals[name] = totals.get(name, 0.0) + float(each @ seconds)
    return totals


def write_operation_metrics(result: SimulationResult, runs: Columns, folder: Path) -> None:
    """Write operation_metrics.csv (ms per layer) and cpu_operation_metrics.csv (ms per stage), a row for each batch.

    runs: whole batches. A pipeline shows its first stage. The field of an operation that did not run is empty.
    """
    plans = result.hardware
    model_names = [
        *LAYER_OPERATIONS,
        *OTHER_OPERATIONS,
        *_further_names(op for plan in plans for op in plan.tables.linear),
    ]
    cpu_names = [*CPU_OPERATIONS, *_further_names(op for plan in plans for op in plan.tables.cpu)]
    with (
        open_atomic(folder / "operation_metrics.csv", "wb") as model_file,
        open_atomic(folder / "cpu_operation_metrics.csv", "wb") as cpu_file,
    ):
        model_file.write(header_line(["Batch Id", *model_names]))
        cpu_file.write(header_line(["Batch Id", *cpu_names]))
        for numbers, count, times in _batch_times(result, runs):
            for file, names in ((model_file, model_names), (cpu_file, cpu_names)):
                columns = [times.get(name, np.full(len(count), np.nan)) for name in names]
                file.write(format_rows([numbers, *(np.repeat(column, count) for column in columns)]))


def _further_names(ops: Iterable[str]) -> list[str]:
    """Return the distinct operations that upstream does not have."""
    known = {*LAYER_OPERATIONS, *OTHER_OPERATIONS, *CPU_OPERATIONS, "all_reduce", "send_recv"}
    return [name for name in unique(UPSTREAM_NAMES.get(op, op) for op in ops) if name not in known]


def _batch_times(
    result: SimulationResult, runs: Columns
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Floats]]]:
    """Yield (batch numbers, batches that share each time, times of each run) in parts, ordered by batch."""
    order = np.argsort(runs["batch_id"], kind="stable")
    group = result.recording.replicas["group"][runs["replica"]]
    for first in range(0, len(order), 1024):
        part = order[first : first + 1024]
        count = runs["count"][part].astype(np.int64)
        within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        times: dict[str, Floats] = {}
        for number in np.unique(group[part]):
            selected = group[part] == number
            rows = _of_group(result, number, {name: column[part[selected]] for name, column in runs.items()})
            for name, each in rows.items():
                times.setdefault(name, np.full(len(part), np.nan))[selected] = each
        yield np.repeat(runs["batch_id"][part], count) + within, count, times


def _of_group(result: SimulationResult, number: int, rows: Columns) -> dict[str, Floats]:
    plan = result.hardware[number]
    num_stages = result.config.cluster_config.groups[number].replica_config.num_pipeline_stages
    layer = layer_times(plan, rows)
    once = stage_times(plan, rows, num_stages)
    transfer = once.get("pipeline_send_recv", np.zeros(len(rows["stage"])))
    model = plan.layers_per_stage * np.sum(list(layer.values()), axis=0) + transfer
    attention = {name: np.where(layer[name] > 0, layer[name], np.nan) for name in ("attn_prefill", "attn_decode")}
    return {**layer, **attention, **once, "model_execution_e2e": model}


def _chunks_by_group(result: SimulationResult) -> Iterator[tuple[HardwarePlan, int, Columns]]:
    """Yield (plan, number of stages, rows) for parts of the recorded rows, each of one hardware group."""
    batches = result.recording.batches
    group = result.recording.replicas["group"][batches["replica"]]
    for number, (plan, resolved) in enumerate(zip(result.hardware, result.config.cluster_config.groups, strict=True)):
        chosen = np.flatnonzero(group == number)
        for first in range(0, len(chosen), CHUNK_ROWS):
            part = chosen[first : first + CHUNK_ROWS]
            rows: Columns = {name: column[part] for name, column in batches.items()}
            yield plan, resolved.replica_config.num_pipeline_stages, rows


def _decode_times(plan: HardwarePlan, rows: Columns) -> Floats:
    """Look decode times up at the mean KV length, truncated and rounded up to the granularity; 0 without decodes."""
    size, step = rows["decode_size"], plan.tables.kv_granularity
    mean = rows["decode_kv_tokens"] // np.maximum(size, 1)
    times = np.where(size > 0, plan.tables.attn_decode[size, -(-mean // step)], 0.0)
    return times * np.where(size > 1, 1.0 + plan.decode_batching_overhead, 1.0)


def _prefill_times(plan: HardwarePlan, rows: Columns) -> Floats:
    tables = plan.tables
    size = rows["batch_size"] - rows["decode_size"]
    column = -(-rows["prefill_chunk"] // tables.chunk_granularity)
    times = np.where(size > 0, tables.attn_prefill[rows["prefill_kv_tokens"] // tables.kv_granularity, column], 0.0)
    return times * np.where(size > 1, 1.0 + plan.prefill_batching_overhead, 1.0)
