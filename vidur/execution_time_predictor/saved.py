"""The `tables` predictor, which reads times from a file."""

from __future__ import annotations

from pathlib import Path

from vidur.config import TablesExecutionTimePredictorConfig
from vidur.config.replica import ReplicaConfig
from vidur.execution_time_predictor.registry import fill_placeholders, predictors
from vidur.execution_time_predictor.tables import ExecutionTimeTables, TableBounds


@predictors.register(TablesExecutionTimePredictorConfig.type_name)
def load_saved(
    config: TablesExecutionTimePredictorConfig,
    replica: ReplicaConfig,
    bounds: TableBounds,
    cache_dir: Path | None,
    block_size: int | None,
) -> ExecutionTimeTables:
    """Load tables. Raises InputError if the file is missing or malformed; tables below `bounds` are accepted here."""
    return ExecutionTimeTables.load(fill_placeholders(config.file, replica))
