"""How far a predictor is from reference iterations: `python -m vidur.execution_time_predictor.fidelity FILE`.

FILE is JSON: `{"<system>/tp<n>": {"<iteration>": milliseconds}}` for Llama-3.1-8B, the system h100_sxm or a100_sxm, the
iteration "prefill C", "prefill C @ past P", "decode b=B kv=K" (K counts the new token) or "mixed Bdec@K + C chunk".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidur.config import (
    AiconfiguratorExecutionTimePredictorConfig,
    BaseExecutionTimePredictorConfig,
    ReplicaConfig,
    RooflineExecutionTimePredictorConfig,
)
from vidur.errors import InputError
from vidur.execution_time_predictor.build import build_tables
from vidur.execution_time_predictor.iteration import iteration_ms
from vidur.execution_time_predictor.tables import ExecutionTimeTables, TableBounds

MODEL = "meta-llama/Llama-3.1-8B"
BOUNDS = TableBounds(
    max_batch_tokens=8192, max_batch_size=257, max_context_tokens=8192, max_prefill_chunk=8192, max_prefill_kv=8192
)
PREDICTORS: dict[str, type[BaseExecutionTimePredictorConfig]] = {
    config.type_name: config
    for config in (RooflineExecutionTimePredictorConfig, AiconfiguratorExecutionTimePredictorConfig)
}
PATTERNS = (
    re.compile(r"prefill (?P<chunk>\d+)(?: @ past (?P<past>\d+))?$"),
    re.compile(r"decode b=(?P<batch>\d+) kv=(?P<kv>\d+)$"),
    re.compile(r"mixed (?P<batch>\d+)dec@(?P<kv>\d+) \+ (?P<chunk>\d+) chunk$"),
)


@dataclass(frozen=True)
class Comparison:
    """One iteration: the reference and the prediction, ms."""

    system: str
    iteration: str
    reference: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.predicted / self.reference - 1.0


def compare(points: Path, config: BaseExecutionTimePredictorConfig) -> list[Comparison]:
    """Every point of the file. Raises InputError if it is missing or malformed."""
    try:
        reference = json.loads(points.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{points}: not a readable JSON file of iteration times ({error})") from error
    return [
        Comparison(system, iteration, milliseconds, _predict(tables, replica, iteration))
        for system, iterations in reference.items()
        for replica in [_replica(system)]
        for tables in [build_tables(config, replica, BOUNDS)]
        for iteration, milliseconds in iterations.items()
    ]


def summary(comparisons: list[Comparison]) -> dict[str, float]:
    """Absolute relative errors: median, 95th percentile, largest; and the median signed one."""
    errors = np.array([comparison.error for comparison in comparisons])
    return {
        "median": float(np.median(np.abs(errors))),
        "p95": float(np.percentile(np.abs(errors), 95)),
        "max": float(np.abs(errors).max()),
        "bias": float(np.median(errors)),
    }


def _replica(system: str) -> ReplicaConfig:
    matched = re.fullmatch(r"(h100|a100)_sxm/tp(\d+)", system)
    if not matched:
        raise InputError(f"'{system}': expected h100_sxm/tp<n> or a100_sxm/tp<n>")
    device, size = matched.groups()
    return ReplicaConfig(
        model_name=MODEL, device=device, network_device=f"{device}_dgx", tensor_parallel_size=int(size)
    )


def _predict(tables: ExecutionTimeTables, replica: ReplicaConfig, iteration: str) -> float:
    for pattern in PATTERNS:
        if matched := pattern.match(iteration):
            values = {name: int(value) for name, value in matched.groupdict().items() if value}
            prefills = [(values.get("past", 0), values["chunk"])] if "chunk" in values else []
            return iteration_ms(tables, replica, [values.get("kv", 0)] * values.get("batch", 0), prefills)
    raise InputError(f"'{iteration}': not an iteration of a form that {__name__} knows")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vidur.execution_time_predictor.fidelity", description=__doc__)
    parser.add_argument("points", type=Path, help="the JSON file of reference times")
    parser.add_argument("--predictor", choices=sorted(PREDICTORS), default="roofline")
    options = parser.parse_args(arguments)
    try:
        comparisons = compare(options.points, PREDICTORS[options.predictor]())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for one in comparisons:
        print(f"{one.system:14} {one.iteration:30} {one.reference:9.3f} {one.predicted:9.3f} {one.error:+7.1%}")
    for system in ("", *dict.fromkeys(one.system for one in comparisons)):
        figures = summary([one for one in comparisons if one.system.startswith(system)])
        print(f"{system or 'all':14} " + "  ".join(f"{name} {value:.2%}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
