"""The `aiconfigurator` predictor: NVIDIA's measured tables (aiconfigurator-core, an optional package).

An iteration has the operations that the package counts for a Llama model, as in
vidur.execution_time_predictor.roofline.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidur.config import AiconfiguratorExecutionTimePredictorConfig
from vidur.config.replica import ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.grid import TableGrid
from vidur.execution_time_predictor.registry import predictors
from vidur.execution_time_predictor.sampling import fill_curve, fill_surface
from vidur.execution_time_predictor.shape import DeviceShape
from vidur.execution_time_predictor.tables import POST_NORM_OP, ExecutionTimeTables, FloatArray, TableBounds
from vidur.extras import missing_package

PACKAGE = "aiconfigurator_core"
SYSTEMS = {"a100": "a100_sxm", "h100": "h100_sxm", "h200": "h200_sxm", "l40s": "l40s", "b200": "b200_sxm"}
BACKEND = "vllm"
# The newest backend version with complete tables in the package's release 0.12.0: 0.24.0, on A100 0.14.0.
BACKEND_VERSION = "current"
# The fraction of memory bandwidth that element-wise operations and embeddings reach, by the package.
ELEMENTWISE_SCALE, EMBEDDING_SCALE = 0.8, 0.3


@dataclass(frozen=True)
class Database:
    """The package's tables of one system, and its interpolation engine."""

    operations: Any
    common: Any
    engine: Any
    tables: Any
    handle: Any

    @staticmethod
    def of(device: str) -> Database:
        """Load the tables of a device. Raises InputError if the package or the device is missing."""
        if device not in SYSTEMS:
            raise InputError(
                f"--replica_config_device {device}: aiconfigurator has no tables of it; valid: {', '.join(SYSTEMS)}"
            )
        try:
            from aiconfigurator_core.sdk import common, engine, operations, perf_database
        except ImportError as error:
            raise missing_package(
                "aiconfigurator_core", "the aiconfigurator predictor (Python 3.11 or later)"
            ) from error
        tables = perf_database.get_database(SYSTEMS[device], BACKEND, BACKEND_VERSION)
        return Database(operations, common, engine, tables, engine.EngineHandle.for_database(tables))

    def serialize(self, operation: Any) -> str:
        """Serialize an operation for the engine, with measured kernels in the framework's order of preference."""
        specifications = json.loads(self.engine.build_ops_json([operation]))
        lane_tables = {
            "ContextAttention": "_context_attention_data",
            "GenerationAttention": "_generation_attention_data",
        }
        for kind, table in lane_tables.items():
            if kind in specifications[0]:
                order = self.operations.attention.resolved_lane_order_for_op(self.tables, table)
                specifications[0][kind]["lane_order"] = order
        return json.dumps(specifications)

    def by_tokens(self, axis: FloatArray, operation: Any) -> FloatArray:
        """Return milliseconds by number of tokens (or rows); 0 at 0."""
        form = self.serialize(operation)

        def evaluate(tokens: int) -> float:
            return self._evaluate(form, is_context=True, batch_size=1, s=1, x=tokens) if tokens else 0.0

        return fill_curve(axis, evaluate)

    def prefill(self, grid: TableGrid, operation: Any) -> FloatArray:
        """Return milliseconds [KV length, chunk]; 0 at chunk 0."""
        form = self.serialize(operation)

        def evaluate(kv: int, chunk: int) -> float:
            return self._evaluate(form, is_context=True, batch_size=1, s=chunk, prefix=kv) if chunk else 0.0

        return fill_surface(grid.kv_of_prefill, grid.chunks, evaluate)

    def decode(self, grid: TableGrid, operation: Any) -> FloatArray:
        """Return milliseconds [batch size, KV length]; 0 at batch size 0."""
        form = self.serialize(operation)

        def evaluate(batch: int, kv: int) -> float:
            return self._evaluate(form, is_context=False, batch_size=batch, s=max(kv, 1)) if batch else 0.0

        return fill_surface(grid.batch_sizes, grid.kv_of_decode, evaluate)

    def _evaluate(self, form: str, **shape: Any) -> float:
        return float(self.handle.evaluate_ops_json(form, **shape)[0][1])


@predictors.register(AiconfiguratorExecutionTimePredictorConfig.type_name)
def build_aiconfigurator(
    config: AiconfiguratorExecutionTimePredictorConfig,
    replica: ReplicaConfig,
    bounds: TableBounds,
    cache_dir: Path | None,
    block_size: int | None,
) -> ExecutionTimeTables:
    """Build tables. Raises InputError if the package, or its data for the model, device or TP size, is missing."""
    grid = TableGrid.of(bounds, config.kv_cache_prediction_granularity)
    with _only_errors_logged():
        database = Database.of(replica.device)
        try:
            return _build(database, replica, grid)
        except (RuntimeError, ValueError, KeyError) as error:
            # The package's message continues with paths of this machine.
            reason = str(error).splitlines()[0].split(" at /")[0]
            raise InputError(
                f"aiconfigurator has no times for {replica.model_name} at tensor parallel size"
                f" {replica.tensor_parallel_size} on {replica.device} ({reason}); use roofline"
            ) from error


def _build(database: Database, replica: ReplicaConfig, grid: TableGrid) -> ExecutionTimeTables:
    shape, operations = DeviceShape.of(replica), database.operations
    kv_type, attention_type = database.common.KVCacheQuantMode.bfloat16, database.common.FMHAQuantMode.bfloat16
    heads, kv_heads = shape.num_q_heads, shape.num_kv_heads
    prefill = operations.ContextAttention(
        "context_attention", 1, heads, kv_heads, kv_type, attention_type, head_size=shape.head_dim, use_qk_norm=False
    )
    decode = operations.GenerationAttention(
        "generation_attention", 1, heads, kv_heads, kv_type, head_size=shape.head_dim, use_qk_norm=False
    )
    linear = _linear(database, replica, shape, grid.tokens)
    head = database.by_tokens(grid.batch_sizes, _gemm(database, shape.vocab_size, shape.embedding_dim))
    notes = [f"{PACKAGE} tables of {database.tables.system}, {BACKEND} {database.tables.version}"]
    if replica.tensor_parallel_size > 1 and replica.node_sku.interconnect == "pairwise_nvlink":
        notes.append(f"all-reduce as on a node with NVSwitch, which {replica.network_device} is not")
    if grid.note:
        notes.append(grid.note)
    return ExecutionTimeTables(
        linear=linear,
        attn_prefill=database.prefill(grid, prefill),
        attn_decode=database.decode(grid, decode),
        kv_granularity=grid.kv_granularity,
        chunk_granularity=grid.chunk_granularity,
        token_rounding=1,
        cpu={"head": head / replica.num_pipeline_stages},
        source=", ".join(notes),
    )


def _linear(
    database: Database, replica: ReplicaConfig, shape: DeviceShape, tokens: FloatArray
) -> dict[str, FloatArray]:
    """Return milliseconds per layer by tokens, with the iteration's embedding spread over the layers."""
    operations, dim, mlp, up = database.operations, shape.embedding_dim, shape.mlp_hidden_dim, shape.mlp_up_width

    def elementwise(read: int, written: int) -> FloatArray:
        return database.by_tokens(tokens, operations.ElementWise("elementwise", 1, read, written, ELEMENTWISE_SCALE))

    # A norm fused with the residual addition reads and writes both.
    norm = elementwise(2 * dim, 2 * dim)
    embedding = database.by_tokens(tokens, operations.Embedding("embedding", 1, shape.vocab_size, dim, EMBEDDING_SCALE))
    nothing = np.zeros_like(tokens)
    linear = {
        "attn_pre_proj": database.by_tokens(tokens, _gemm(database, shape.qkv_width, dim)),
        "attn_post_proj": database.by_tokens(tokens, _gemm(database, dim, shape.attention_width)),
        "mlp_up_proj": database.by_tokens(tokens, _gemm(database, up, dim)),
        "mlp_down_proj": database.by_tokens(tokens, _gemm(database, dim, mlp)),
        "mlp_act": elementwise(up, mlp),
        "attn_rope": nothing,
        "attn_kv_cache_save": nothing,
        "input_layernorm": norm,
        "add": nothing,
    }
    if replica.model.post_attn_norm:
        linear[POST_NORM_OP] = norm
    size, stages = replica.tensor_parallel_size, replica.num_pipeline_stages
    if size > 1:
        linear["all_reduce"] = database.by_tokens(tokens, operations.CustomAllReduce("all_reduce", 1, dim, size))
        embedding = embedding + linear["all_reduce"]
    if stages > 1:
        linear["send_recv"] = database.by_tokens(tokens, operations.P2P("send_recv", 1, dim, stages))
    linear["embedding"] = embedding / replica.model.num_layers
    return linear


def _gemm(database: Database, columns: int, inner: int) -> Any:
    return database.operations.GEMM("gemm", 1, columns, inner, database.common.GEMMQuantMode.bfloat16)


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    """Silence the package's warnings about tables that are not used here."""
    logger = logging.getLogger(PACKAGE)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
