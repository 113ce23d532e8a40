"""The reference cases of ../shared/golden as configurations of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.config import SimulationConfig

# Flags that have no part in a replay with given tables: how upstream made its requests and tables.
_DROPPED = ("random_forrest_execution_time_predictor", "synthetic_request_generator", "_request_interval_generator")
_DROPPED_LENGTHS = ("interval_generator_config_type", "length_generator_config_type", "_request_length_generator")


@dataclass(frozen=True)
class GoldenCase:
    """One folder: upstream's flags, what it computed, and its own CPU seconds."""

    folder: Path

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        return facts

    def flags(self) -> list[str]:
        """A trace replay of the case's requests with its tables; upstream's count for `lor`."""
        flags = ["--request_generator_config_type", "trace_replay"]
        flags += ["--trace_request_generator_config_trace_file", str(self.folder / "requests.csv")]
        flags += ["--trace_request_generator_config_max_tokens", "4096"]
        flags += ["--execution_time_predictor_config_type", "tables"]
        flags += ["--tables_execution_time_predictor_config_file", str(self.folder / "tables.npz")]
        flags += ["--lor_global_scheduler_config_count", "waiting"]
        theirs = [part for part in self.facts["flags"] if part != "--no-metrics_config_write_metrics"]
        for flag, value in zip(theirs[::2], theirs[1::2], strict=True):
            if not any(part in flag for part in (*_DROPPED, *_DROPPED_LENGTHS)):
                flags += [flag, value]
        if "faster_transformer" in self.folder.name:
            flags += ["--trace_request_generator_config_max_tokens", "16384"]
        return flags

    def config(self) -> SimulationConfig:
        return SimulationConfig.from_cli(self.flags())

    def expected(self) -> NDArray[Any]:
        return np.genfromtxt(self.folder / "expected.csv", delimiter=",", names=True)


def golden_cases(shared: Path) -> list[GoldenCase]:
    return [GoldenCase(folder) for folder in sorted((shared / "golden").iterdir()) if (folder / "case.json").exists()]
