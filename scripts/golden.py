"""Load a recorded run of microsoft/vidur as a configuration of this project."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.config import (
    LORGlobalSchedulerConfig,
    SimulationConfig,
    TablesExecutionTimePredictorConfig,
    TraceRequestGeneratorConfig,
)
from vidur.config.base import settings_of

# Upstream's default, which is not ours.
_PREDICTOR = ("--execution_time_predictor_config_type", "random_forrest")


@dataclass(frozen=True)
class GoldenCase:
    """A folder written by scripts/upstream_case.py: upstream's flags, results and CPU seconds."""

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        return facts

    def config(self) -> SimulationConfig:
        """Replay the case's requests with its tables, and upstream's count for `lor`, recording batches."""
        theirs = SimulationConfig.from_cli([*_PREDICTOR, *self.facts["flags"]])
        predictor = {
            item.name: getattr(theirs.execution_time_predictor_config, item.name)
            for item in settings_of(TablesExecutionTimePredictorConfig)
            if item.name != "file"
        }
        cluster = theirs.cluster_config
        if isinstance(router := cluster.global_scheduler_config, LORGlobalSchedulerConfig):
            router = dataclasses.replace(router, count="waiting")
        return dataclasses.replace(
            theirs,
            metrics_config=dataclasses.replace(theirs.metrics_config, write_metrics=True),
            cluster_config=dataclasses.replace(cluster, global_scheduler_config=router),
            request_generator_config=TraceRequestGeneratorConfig(
                trace_file=str(self.folder / "requests.csv"), max_tokens=theirs.request_generator_config.max_tokens
            ),
            execution_time_predictor_config=TablesExecutionTimePredictorConfig(
                file=str(self.folder / "tables.npz"), **predictor
            ),
        )

    @cached_property
    def expected(self) -> NDArray[Any]:
        """Return a row for each request in order of arrival; nan for times that never happened."""
        return np.genfromtxt(self.folder / "expected.csv", delimiter=",", names=True)
