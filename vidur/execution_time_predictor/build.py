"""Build the execution-time tables of a predictor's configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

# Importing these registers their predictors.
import vidur.execution_time_predictor.aiconfigurator
import vidur.execution_time_predictor.roofline
import vidur.execution_time_predictor.saved
import vidur.execution_time_predictor.trained  # noqa: F401
from vidur.config import BaseExecutionTimePredictorConfig
from vidur.config.replica import ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.registry import fill_placeholders, predictors
from vidur.execution_time_predictor.tables import UPSTREAM_CPU_OPS, ExecutionTimeTables, FloatArray, TableBounds


def build_tables(
    config: BaseExecutionTimePredictorConfig,
    replica: ReplicaConfig,
    bounds: TableBounds,
    cache_dir: Path | None = None,
    block_size: int | None = None,
) -> ExecutionTimeTables:
    """Build the tables of one kind of replica, and save them if `save_tables_file` is set.

    cache_dir: the folder in which slow predictors cache their results, or None. block_size: of the KV-cache; trained
    predictors prefer profiles taken at it. Raises InputError if the predictor does not support the replica, or a file
    or package is missing.
    """
    tables = predictors.get(config.get_type())(config, replica, bounds, cache_dir, block_size)
    tables = _with_cpu_overhead(tables, config, bounds).for_replica(replica)
    if config.save_tables_file:
        tables.save(fill_placeholders(config.save_tables_file, replica))
    return tables


def _with_cpu_overhead(
    tables: ExecutionTimeTables, config: BaseExecutionTimePredictorConfig, bounds: TableBounds
) -> ExecutionTimeTables:
    """Apply `skip_cpu_overhead_modeling` to measured CPU overheads, and add the configured ones."""
    cpu = dict(tables.cpu)
    if config.skip_cpu_overhead_modeling:
        cpu = {op: times for op, times in cpu.items() if op not in UPSTREAM_CPU_OPS}
    elif not set(UPSTREAM_CPU_OPS) & set(cpu):
        raise InputError(
            f"{config.flag('skip_cpu_overhead_modeling')} is false, but {tables.source} has no measured CPU overheads:"
            f" use {config.flag('cpu_overhead_constant_ms')}, or a predictor trained on profiles"
        )
    constant, per_request = config.cpu_overhead_constant_ms, config.cpu_overhead_per_request_ms
    if constant or per_request:
        batch_sizes = np.arange(max(bounds.max_batch_size, tables.max_batch_size) + 1, dtype=np.float64)
        overhead: FloatArray = constant + per_request * batch_sizes
        overhead[0] = 0.0
        if "cpu_overhead" in cpu:
            length = min(len(overhead), len(cpu["cpu_overhead"]))
            overhead = overhead[:length] + cpu["cpu_overhead"][:length]
        cpu["cpu_overhead"] = overhead
    return replace(tables, cpu=cpu)
