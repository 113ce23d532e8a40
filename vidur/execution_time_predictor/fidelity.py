"""Compare a predictor with reference iterations: `python -m vidur.execution_time_predictor.fidelity FILE`.

FILE is JSON: `{"<system>/tp<n>": {"<iteration>": milliseconds}}` for Llama-3.1-8B, where the iteration is "prefill C",
"prefill C @ past P", "decode b=B kv=K" (K counts the new token) or "mixed Bdec@K + C chunk". In place of a file,
`--systems` takes the reference from the predictor `aiconfigurator`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidur.config import (
    AiconfiguratorExecutionTimePredictorConfig,
    BaseExecutionTimePredictorConfig,
    ReplicaConfig,
    RooflineExecutionTimePredictorConfig,
)
from vidur.config.command_line import FlagParser
from vidur.errors import InputError
from vidur.execution_time_predictor.build import build_tables
from vidur.execution_time_predictor.iteration import iteration_ms
from vidur.execution_time_predictor.tables import ExecutionTimeTables, TableBounds
from vidur.tool import run_tool

MODEL = "meta-llama/Llama-3.1-8B"
BOUNDS = TableBounds(
    max_batch_tokens=8192, max_batch_size=257, max_context_tokens=8192, max_prefill_chunk=8192, max_prefill_kv=8192
)
PREDICTORS: dict[str, type[BaseExecutionTimePredictorConfig]] = {
    config.type_name: config
    for config in (RooflineExecutionTimePredictorConfig, AiconfiguratorExecutionTimePredictorConfig)
}
# Device and node by aiconfigurator's names.
SYSTEMS = {
    "a100_sxm": ("a100", "a100_dgx"),
    "h100_sxm": ("h100", "h100_dgx"),
    "h200_sxm": ("h200", "h200_dgx"),
    "b200_sxm": ("b200", "b200_dgx"),
    "l40s": ("l40s", "l40s_pcie"),
}
ITERATIONS = (
    *(f"prefill {chunk}" for chunk in (512, 2048, 8192)),
    "prefill 512 @ past 7680",
    *(f"decode b={batch} kv={kv}" for kv in (1024, 4096) for batch in (1, 16, 64, 128, 256)),
    "mixed 64dec@1024 + 512 chunk",
)
PATTERNS = (
    re.compile(r"prefill (?P<chunk>\d+)(?: @ past (?P<past>\d+))?$"),
    re.compile(r"decode b=(?P<batch>\d+) kv=(?P<kv>\d+)$"),
    re.compile(r"mixed (?P<batch>\d+)dec@(?P<kv>\d+) \+ (?P<chunk>\d+) chunk$"),
)


@dataclass(frozen=True)
class PredictorComparison:
    """One iteration: the reference and the prediction, ms."""

    system: str
    iteration: str
    reference: float
    predicted: float

    @property
    def error(self) -> float:
        """The signed relative error."""
        return self.predicted / self.reference - 1.0


Points = dict[str, dict[str, float]]


def read_points(path: Path) -> Points:
    """Read reference times. Raises InputError if the file is missing or malformed."""
    try:
        points = json.loads(path.read_text(encoding="utf-8"))
        return {system: {name: float(ms) for name, ms in times.items()} for system, times in points.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file of iteration times ({error})") from error


def measured_points(systems: list[str]) -> Points:
    """Predict `ITERATIONS` with `aiconfigurator`. Raises InputError if its package is missing."""
    config = AiconfiguratorExecutionTimePredictorConfig()
    tables = {system: build_tables(config, replica_of(system), BOUNDS) for system in systems}
    return {
        system: {name: predict(tables[system], replica_of(system), name) for name in ITERATIONS} for system in systems
    }


def compare(points: Points, config: BaseExecutionTimePredictorConfig) -> list[PredictorComparison]:
    """Predict every point with tables of the configuration."""
    comparisons = []
    for system, iterations in points.items():
        replica = replica_of(system)
        tables = build_tables(config, replica, BOUNDS)
        for name, milliseconds in iterations.items():
            comparisons.append(PredictorComparison(system, name, milliseconds, predict(tables, replica, name)))
    return comparisons


def summary(comparisons: list[PredictorComparison]) -> dict[str, float]:
    """Return median, 95th percentile and maximum of absolute relative errors, and the median signed error."""
    errors = np.array([comparison.error for comparison in comparisons])
    return {
        "median": float(np.median(np.abs(errors))),
        "p95": float(np.percentile(np.abs(errors), 95)),
        "max": float(np.abs(errors).max()),
        "bias": float(np.median(errors)),
    }


def replica_of(system: str) -> ReplicaConfig:
    """Return the replica of "<system>/tp<n>"."""
    name, _, size = system.partition("/tp")
    if name not in SYSTEMS or not size.isdecimal():
        raise InputError(f"'{system}': expected <system>/tp<n>, the system being one of {', '.join(SYSTEMS)}")
    device, node = SYSTEMS[name]
    return ReplicaConfig(model_name=MODEL, device=device, network_device=node, tensor_parallel_size=int(size))


def predict(tables: ExecutionTimeTables, replica: ReplicaConfig, iteration: str) -> float:
    """Return the milliseconds of an iteration, given by name."""
    for pattern in PATTERNS:
        if matched := pattern.match(iteration):
            values = {name: int(value) for name, value in matched.groupdict().items() if value}
            prefills = [(values.get("past", 0), values["chunk"])] if "chunk" in values else []
            return iteration_ms(tables, replica, [values.get("kv", 0)] * values.get("batch", 0), prefills)
    raise InputError(f"'{iteration}': not an iteration of a form that {__name__} supports")


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit status of `run_tool`."""
    return run_tool("vidur.execution_time_predictor.fidelity", _parse, _report, arguments)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace]:
    parser = FlagParser(prog="python -m vidur.execution_time_predictor.fidelity", description=__doc__)
    parser.add_argument("points", type=Path, nargs="?", help="the JSON file of reference times")
    parser.add_argument("--systems", nargs="+", help="systems, instead of a file: h200_sxm/tp1 l40s/tp2 ...")
    parser.add_argument("--predictor", choices=sorted(PREDICTORS), default="roofline", help="what is compared")
    options = parser.parse_args(arguments)
    if (options.points is None) == (options.systems is None):
        parser.error("give either a file or --systems")
    return (options,)


def _report(options: argparse.Namespace) -> None:
    points = read_points(options.points) if options.points else measured_points(options.systems)
    comparisons = compare(points, PREDICTORS[options.predictor]())
    for item in comparisons:
        print(f"{item.system:14} {item.iteration:30} {item.reference:9.3f} {item.predicted:9.3f} {item.error:+7.1%}")
    for system in ("", *dict.fromkeys(comparison.system for comparison in comparisons)):
        figures = summary([comparison for comparison in comparisons if comparison.system.startswith(system)])
        print(f"{system or 'all':14} " + "  ".join(f"{name} {value:.2%}" for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
