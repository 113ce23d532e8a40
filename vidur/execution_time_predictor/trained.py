"""The predictors trained on profiles with scikit-learn: `random_forrest` and `linear_regression`.

Estimators, parameter grids and scoring are microsoft/vidur's. Seeds are fixed: equal profiles give equal tables.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import vidur
from vidur.atomic import os_reason
from vidur.config import (
    BaseProfiledExecutionTimePredictorConfig,
    LinearRegressionExecutionTimePredictorConfig,
    RandomForrestExecutionTimePredictorConfig,
)
from vidur.config.replica import ReplicaConfig
from vidur.data_files import warn_once
from vidur.errors import InputError
from vidur.execution_time_predictor.estimators import Estimator, estimator_of
from vidur.execution_time_predictor.grid import TableGrid, coarse_chunks
from vidur.execution_time_predictor.profiles import ProfileReader, TrainingData
from vidur.execution_time_predictor.registry import predictors
from vidur.execution_time_predictor.tables import UPSTREAM_CPU_OPS, ExecutionTimeTables, FloatArray, TableBounds
from vidur.progress import Progress

logger = logging.getLogger(__name__)

# The default of every upstream batcher.
DEFAULT_BLOCK_SIZE = 16


@predictors.register(LinearRegressionExecutionTimePredictorConfig.type_name)
@predictors.register(RandomForrestExecutionTimePredictorConfig.type_name)
def build_trained(
    config: BaseProfiledExecutionTimePredictorConfig,
    replica: ReplicaConfig,
    bounds: TableBounds,
    cache_dir: Path | None,
    block_size: int | None,
) -> ExecutionTimeTables:
    """Build tables. Raises InputError if scikit-learn, a profile or its rows for the replica are missing."""
    estimator = estimator_of(config)
    reader = ProfileReader(config, replica, block_size or DEFAULT_BLOCK_SIZE)
    data = reader.all()
    bounds = _predicted_bounds(config, bounds)
    cache = _Cache(cache_dir, _content_hash(estimator, config.kv_cache_prediction_granularity, data))
    tables = None if config.no_cache else cache.load()
    beyond = None if tables is None else tables.covers(bounds)
    if tables is None or beyond:
        wanted = bounds if tables is None else _union(bounds, tables)
        grid = TableGrid.of(wanted, config.kv_cache_prediction_granularity)
        tables = _train_all(estimator, data, grid)
        cache.store(tables)
    notes = [f"{config.type_name} trained on {data[0].path}", *reader.notes]
    if tables.chunk_granularity > 1:
        notes.append(coarse_chunks(tables.chunk_granularity))
    return replace(tables, source=", ".join(notes))


def _predicted_bounds(config: BaseProfiledExecutionTimePredictorConfig, bounds: TableBounds) -> TableBounds:
    """Return the larger of the configured ranges (upstream's) and `bounds`."""
    longest, batch = config.prediction_max_tokens_per_request, config.prediction_max_batch_size
    return TableBounds(
        max_batch_tokens=max(longest, bounds.max_batch_tokens),
        max_batch_size=max(batch, bounds.max_batch_size),
        max_context_tokens=max(longest, bounds.max_context_tokens),
        max_prefill_chunk=max(config.prediction_max_prefill_chunk_size, bounds.max_prefill_chunk),
        max_prefill_kv=max(longest, bounds.max_prefill_kv),
    )


def _union(bounds: TableBounds, tables: ExecutionTimeTables) -> TableBounds:
    """Return bounds that also cover cached tables, so that alternating runs do not train again each time."""
    kv = tables.kv_granularity
    return TableBounds(
        max_batch_tokens=max(bounds.max_batch_tokens, tables.max_tokens),
        max_batch_size=max(bounds.max_batch_size, tables.max_batch_size),
        max_context_tokens=max(bounds.max_context_tokens, (tables.attn_decode.shape[1] - 1) * kv),
        max_prefill_chunk=max(bounds.max_prefill_chunk, tables.max_chunk),
        max_prefill_kv=max(bounds.max_prefill_kv, (tables.attn_prefill.shape[0] - 1) * kv),
    )


def _train_all(estimator: Estimator, data: list[TrainingData], grid: TableGrid) -> ExecutionTimeTables:
    """Fit each operation and predict over the grid; negative predictions, which polynomials may give, become 0."""
    curves: dict[str, FloatArray] = {}
    surfaces: dict[str, FloatArray] = {}
    axes = {
        "attn_prefill": (grid.kv_of_prefill, grid.chunks**2),
        "attn_decode": (grid.batch_sizes, grid.kv_of_decode),
    }
    for item in Progress("execution times trained", len(data)).over(data):
        if len(item.times) < 2:
            raise InputError(f"{item.path}: {len(item.times)} row for {item.op}; training needs 2 at least")
        model = estimator.fit(item)
        logger.debug(
            "Trained %s on %d rows: %s, mean absolute error %.2f%%",
            item.op,
            len(item.times),
            model.settings,
            model.error,
        )
        if item.op in axes:
            surfaces[item.op] = np.maximum(model.predict(*axes[item.op]), 0.0)
        else:
            axis = grid.batch_sizes if item.op in UPSTREAM_CPU_OPS else grid.tokens
            curves[item.op] = np.maximum(model.predict(axis), 0.0)
            curves[item.op][0] = 0.0
    surfaces["attn_prefill"][:, 0] = 0.0
    surfaces["attn_decode"][0] = 0.0
    return ExecutionTimeTables(
        linear={op: times for op, times in curves.items() if op not in UPSTREAM_CPU_OPS},
        attn_prefill=surfaces["attn_prefill"],
        attn_decode=surfaces["attn_decode"],
        kv_granularity=grid.kv_granularity,
        chunk_granularity=grid.chunk_granularity,
        cpu={op: times for op, times in curves.items() if op in UPSTREAM_CPU_OPS},
    )


def _content_hash(estimator: Estimator, kv_granularity: int, data: list[TrainingData]) -> str:
    """Hash everything the predictions depend on: rows, settings and versions, but not file names or the grid."""
    settings = {**estimator.settings, "kv_granularity": kv_granularity, "vidur": vidur.__version__}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for item in data:
        digest.update(f"{item.op} {item.features.shape}".encode())
        digest.update(np.ascontiguousarray(item.features).tobytes())
        digest.update(item.times.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Cache:
    """A file of tables in the cache folder, if there is one."""

    folder: Path | None
    content: str

    @property
    def path(self) -> Path | None:
        return self.folder / f"execution_times_{self.content}.npz" if self.folder else None

    def load(self) -> ExecutionTimeTables | None:
        """Return the cached tables; None if there are none or they are unreadable."""
        try:
            if self.path is None or not self.path.is_file():
                return None
            return ExecutionTimeTables.load(self.path)
        except (InputError, OSError) as error:
            logger.warning("Training anew: %s", error)
            return None

    def store(self, tables: ExecutionTimeTables) -> None:
        if self.path is not None:
            try:
                tables.save(self.path)
            except OSError as error:
                warn_once(
                    f"Trained execution times cannot be kept for the next run ({os_reason(error)}): set "
                    "--metrics_config_cache_dir to a writable folder"
                )
