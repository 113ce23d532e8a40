"""Compute the time of one iteration from tables in NumPy, as an oracle for the engine's kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vidur.config.replica import ReplicaConfig
from vidur.execution_time_predictor.tables import ExecutionTimeTables


def iteration_ms(
    tables: ExecutionTimeTables,
    replica: ReplicaConfig,
    decode_kv: Sequence[int] = (),
    prefills: Sequence[tuple[int, int]] = (),
) -> float:
    """Return the milliseconds of one iteration through all pipeline stages, without configured overheads.

    decode_kv: the KV length of each request that decodes; prefills: (earlier KV length, chunk) of each prompt.
    Source of the roundings: microsoft/vidur, execution_time_predictor/sklearn_execution_time_predictor.py.
    """
    step = tables.kv_granularity
    tokens = len(decode_kv) + sum(chunk for _, chunk in prefills)
    rounded = -(-tokens // tables.token_rounding) * tables.token_rounding
    layer = sum(
        float(times[rounded if op.rounded else tokens]) * op.times_per_layer for op, times in tables.layer_operations()
    )
    if decode_kv:
        mean = sum(decode_kv) // len(decode_kv)
        layer += float(tables.attn_decode[len(decode_kv), -(-mean // step)])
    if prefills:
        kv_row = sum(-(-kv // step) for kv, _ in prefills)
        chunk = round(math.sqrt(sum(chunk * chunk for _, chunk in prefills)))
        layer += float(tables.attn_prefill[kv_row, -(-chunk // tables.chunk_granularity)])
    requests = len(decode_kv) + len(prefills)
    per_stage = sum(float(times[requests]) for times in tables.cpu.values())
    total = layer * replica.model.num_layers + per_stage * replica.num_pipeline_stages
    if tables.transfer is not None:
        total += float(tables.transfer[rounded]) * (replica.num_pipeline_stages - 1)
    return total
