"""The registry of predictors by type name; each builds tables from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidur.config.replica import ReplicaConfig
from vidur.execution_time_predictor.tables import ExecutionTimeTables, TableBounds
from vidur.registry import Registry

# (the type's configuration, replica, bounds, cache folder or None, KV block size or None if it does not matter)
Builder = Callable[[Any, ReplicaConfig, TableBounds, Path | None, int | None], ExecutionTimeTables]

predictors: Registry[Builder] = Registry("--execution_time_predictor_config_type")


def fill_placeholders(path: str, replica: ReplicaConfig) -> str:
    """Replace {DEVICE}, {MODEL} and {NETWORK_DEVICE} in `path`, as upstream."""
    return (
        path.replace("{DEVICE}", replica.device)
        .replace("{MODEL}", replica.model_name)
        .replace("{NETWORK_DEVICE}", replica.network_device)
    )
