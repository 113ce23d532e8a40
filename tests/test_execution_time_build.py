"""From a predictor's configuration to tables: dispatch, CPU overhead, files, and the time of an iteration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidur.config import (
    BaseExecutionTimePredictorConfig,
    ReplicaConfig,
    RooflineExecutionTimePredictorConfig,
    TablesExecutionTimePredictorConfig,
)
from vidur.errors import InputError
from vidur.execution_time_predictor import ExecutionTimeTables, TableBounds, build_tables, iteration_ms
from vidur.execution_time_predictor.registry import predictors
from vidur.execution_time_predictor.tables import LAYER_OPS, POST_NORM_OP, UPSTREAM_CPU_OPS

BOUNDS = TableBounds(
    max_batch_tokens=64, max_batch_size=4, max_context_tokens=256, max_prefill_chunk=32, max_prefill_kv=256
)


def roofline(**settings: object) -> RooflineExecutionTimePredictorConfig:
    return RooflineExecutionTimePredictorConfig(**settings)  # type: ignore[arg-type]


def test_every_type_has_a_predictor() -> None:
    assert predictors.names() == sorted(BaseExecutionTimePredictorConfig.type_names())


def test_cpu_overhead_is_constant_plus_per_request() -> None:
    config = roofline(cpu_overhead_constant_ms=2.0, cpu_overhead_per_request_ms=0.5)
    tables = build_tables(config, ReplicaConfig(), BOUNDS)
    np.testing.assert_array_equal(tables.cpu["cpu_overhead"], [0.0, 2.5, 3.0, 3.5, 4.0])
    assert "cpu_overhead" not in build_tables(roofline(), ReplicaConfig(), BOUNDS).cpu


def test_tables_saved_are_the_tables_loaded(tmp_path: Path) -> None:
    path = tmp_path / "{DEVICE}" / "{NETWORK_DEVICE}.npz"
    built = build_tables(roofline(save_tables_file=str(path), cpu_overhead_constant_ms=1.0), ReplicaConfig(), BOUNDS)
    assert (tmp_path / "a100" / "a100_pairwise_nvlink.npz").is_file()
    loaded = build_tables(TablesExecutionTimePredictorConfig(file=str(path)), ReplicaConfig(), BOUNDS)
    assert loaded.source == built.source
    assert loaded.token_rounding == built.token_rounding == 1
    for op, times in built.linear.items():
        np.testing.assert_array_equal(loaded.linear[op], times)
    added = TablesExecutionTimePredictorConfig(file=str(path), cpu_overhead_constant_ms=1.0)
    np.testing.assert_array_equal(build_tables(added, ReplicaConfig(), BOUNDS).cpu["cpu_overhead"], [0, 2, 2, 2, 2])


def test_measured_cpu_overheads_of_a_file_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    tables = build_tables(roofline(), ReplicaConfig(), BOUNDS)
    replace(tables, cpu={"schedule": np.arange(5.0), "head": np.arange(5.0)}).save(tmp_path / "tables.npz")
    config = TablesExecutionTimePredictorConfig(file=str(tmp_path / "tables.npz"))
    assert set(build_tables(config, ReplicaConfig(), BOUNDS).cpu) == {"head"}
    kept = build_tables(replace(config, skip_cpu_overhead_modeling=False), ReplicaConfig(), BOUNDS)
    assert set(kept.cpu) == {"schedule", "head"}
    with pytest.raises(InputError, match=r"skip_cpu_overhead_modeling is false, but .* has no measured CPU overheads"):
        build_tables(roofline(skip_cpu_overhead_modeling=False), ReplicaConfig(), BOUNDS)


def test_tables_that_lack_what_the_replica_runs(tmp_path: Path) -> None:
    build_tables(roofline(save_tables_file=str(tmp_path / "one.npz")), ReplicaConfig(), BOUNDS)
    config = TablesExecutionTimePredictorConfig(file=str(tmp_path / "one.npz"))
    with pytest.raises(InputError, match="no times for all_reduce"):
        build_tables(config, ReplicaConfig(tensor_parallel_size=2), BOUNDS)
    with pytest.raises(InputError, match=r"missing\.npz: no such file"):
        build_tables(replace(config, file=str(tmp_path / "missing.npz")), ReplicaConfig(), BOUNDS)


def test_an_iteration_is_the_sum_of_its_operations() -> None:
    tokens, batch = np.arange(65.0), np.arange(6.0)
    ops = (*LAYER_OPS, POST_NORM_OP, "all_reduce", "send_recv")
    tables = ExecutionTimeTables(
        linear={op: tokens * 10.0 ** (-number) for number, op in enumerate(ops)},
        attn_prefill=np.arange(5.0)[:, None] * 100 + np.arange(33.0)[None, :],
        attn_decode=batch[:, None] * 1000 + np.arange(5.0)[None, :],
        cpu=dict.fromkeys(UPSTREAM_CPU_OPS[:2], batch),
    )
    replica = ReplicaConfig(tensor_parallel_size=2, num_pipeline_stages=2)
    # 10 + 3 + 4 tokens: looked up at 24, the KV-cache write at 17.
    layer = sum(
        24 * 10.0 ** (-number) for number, op in enumerate(ops) if op not in ("send_recv", "attn_kv_cache_save")
    )
    layer += 24 * 10.0 ** (-ops.index("all_reduce")) + 17 * 10.0 ** (-ops.index("attn_kv_cache_save"))
    # Decodes: mean KV 103 of 10, 100, 200 -> column 2. Prefills: KV 64 + 128 -> row 3, chunk sqrt(100 + 16) -> 11.
    layer += 3002 + 311
    expected = 32 * layer + 2 * 2 * 5 + 24 * 10.0 ** (-ops.index("send_recv"))
    assert iteration_ms(tables, replica, [10, 100, 200], [(1, 10), (65, 4)]) == pytest.approx(expected)
    assert iteration_ms(replace(tables, token_rounding=1), replica, [10]) < iteration_ms(tables, replica, [10])
