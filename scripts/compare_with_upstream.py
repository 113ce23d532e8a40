"""Run the same flags on a checkout of microsoft/vidur and on ours; compare their times and each request.

python scripts/compare_with_upstream.py --upstream CHECKOUT [--upstream_python PYTHON] [FLAGS of vidur.main ...]
python scripts/compare_with_upstream.py --recorded FOLDER, for an upstream run kept by --record FOLDER.

Both simulate the arrivals, lengths and execution-time tables of upstream's run.
Exit status 1 if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from golden import GoldenCase
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vidur.atomic import write_text
from vidur.config import SimulationConfig
from vidur.config.command_line import FlagParser
from vidur.errors import InputError
from vidur.metrics.text import NOTHING, significant
from vidur.simulator import Simulator, simulate

Floats = NDArray[np.float64]

TOLERANCE = 1e-9
"""Seconds. Times are not rounded, but sums have another order (docs/differences.md)."""

COUNTS = {"replica": "placements", "finished": "finished", "num_restarts": "restarts"}
TIMES = {
    "scheduling_delay": "scheduling delay",
    "ttft": "TTFT",
    "e2e": "E2E",
    "execution_time": "time in batches",
    "preempted_time": "preempted",
}


@dataclass(frozen=True)
class Difference:
    """The difference of one figure over all requests. Times in seconds; means and differences cover requests with both
    values; a request with only one value counts as differing. first: the first request that differs."""

    name: str
    upstream_mean: float | None
    mean: float | None
    p50_difference: float | None
    mean_difference: float | None
    max_difference: float | None
    differing: int
    first: int | None


@dataclass(frozen=True)
class RunTimes:
    """Seconds of a whole command and of its event loop; None if not measured."""

    wall: float | None
    cpu: float | None
    loop_wall: float | None
    loop_cpu: float | None


@dataclass(frozen=True)
class Comparison:
    """The contents of `--json`. first: both sides' figures of the first request that differs, or None."""

    flags: list[str]
    num_requests: int
    tolerance: float
    upstream_times: RunTimes
    times: RunTimes
    differences: list[Difference]
    first: dict[str, dict[str, float | None]] | None

    @property
    def is_equal(self) -> bool:
        return not any(difference.differing for difference in self.differences)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, 1 if the two differ, or 2 for bad input."""
    try:
        options, flags = _parse(argv)
        with tempfile.TemporaryDirectory() as folder:
            times = RunTimes(None, None, None, None)
            case = options.recorded
            if case is None:
                case = options.record or Path(folder) / "case"
                times = run_upstream(options.upstream, options.upstream_python, flags, case)
            comparison = compare(GoldenCase(case), times, options.tolerance)
    except InputError as error:
        print(f"compare_with_upstream: error: {error}", file=sys.stderr)
        return 2
    if options.json is not None:
        write_text(options.json, json.dumps(asdict(comparison), indent=1, allow_nan=False) + "\n")
    print_comparison(comparison)
    return 0 if comparison.is_equal else 1


def run_upstream(checkout: Path, python: Path | None, flags: list[str], folder: Path) -> RunTimes:
    """Record upstream's run of the flags in `folder`; its times exclude the recording. Raises InputError."""
    if not (checkout / "vidur" / "entities").is_dir():
        raise InputError(f"--upstream {checkout}: no checkout of microsoft/vidur (no folder vidur/entities)")
    python = checkout / ".venv" / "bin" / "python" if python is None else python
    if not python.is_file():
        raise InputError(
            f"no Python for upstream at {python}: give --upstream_python, one with its requirements.txt installed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "case.json").exists():
        raise InputError(f"--record {folder} holds a run: read it with --recorded, or give another folder")
    # Do not resolve the path: a virtual environment's Python is a link.
    command = [os.path.abspath(python), str(Path(__file__).resolve().parent / "upstream_case.py")]  # noqa: PTH100
    wall, cpu = _timed([*command, str(folder.resolve()), *flags], checkout, {"PYTHONPATH": "."}, "upstream")
    if not (folder / "case.json").exists():
        raise InputError("upstream ended without a result: no request was simulated")
    facts = GoldenCase(folder).facts
    return RunTimes(
        wall=wall - facts["recording_seconds"],
        cpu=cpu - facts["recording_cpu_seconds"],
        loop_wall=facts["run_seconds"],
        loop_cpu=facts["run_cpu_seconds"],
    )


def compare(case: GoldenCase, upstream_times: RunTimes, tolerance: float = TOLERANCE) -> Comparison:
    """Simulate a recorded upstream run and compare the two."""
    config = case.config()
    ours, theirs = _our_columns(config), _their_columns(case)
    differences = [_difference(name, ours[name], theirs[name], 0.0) for name in COUNTS]
    differences += [_difference(name, ours[name], theirs[name], tolerance) for name in TIMES]
    first = min((difference.first for difference in differences if difference.first is not None), default=None)
    rows = None
    if first is not None:
        rows = {side: _row(columns, first) for side, columns in (("upstream", theirs), ("ours", ours))}
    if upstream_times.loop_cpu is None:
        upstream_times = RunTimes(None, None, case.facts.get("run_seconds"), case.facts["run_cpu_seconds"])
    return Comparison(
        flags=case.facts["flags"],
        num_requests=len(theirs["replica"]),
        tolerance=tolerance,
        upstream_times=upstream_times,
        times=_our_times(config),
        differences=differences,
        first=rows,
    )


def _their_columns(case: GoldenCase) -> dict[str, Floats]:
    arrived_at = np.genfromtxt(case.folder / "requests.csv", delimiter=",", names=True, ndmin=1)["arrived_at"]
    return _columns({name: np.atleast_1d(case.expected)[name] for name in case.expected.dtype.names}, arrived_at)


def _our_columns(config: SimulationConfig) -> dict[str, Floats]:
    requests = simulate(config).recording.requests
    return _columns(requests, requests["arrived_at"])


def _columns(rows: Any, arrived_at: Floats) -> dict[str, Floats]:
    """Return columns by the names of COUNTS and TIMES; nan for missing or partial values."""
    finished = ~np.isnan(rows["completed_at"])
    return {
        "replica": rows["replica"],
        "finished": finished,
        "num_restarts": rows["num_restarts"],
        "scheduling_delay": rows["scheduled_at"] - arrived_at,
        "ttft": rows["prefill_completed_at"] - arrived_at,
        "e2e": rows["completed_at"] - arrived_at,
        "execution_time": np.where(finished, rows["execution_time"], np.nan),
        "preempted_time": np.where(finished, rows["preempted_time"], np.nan),
    }


def _difference(name: str, ours: Floats, theirs: Floats, tolerance: float) -> Difference:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    missing = np.isnan(ours) != np.isnan(theirs)
    both = ~(np.isnan(ours) | np.isnan(theirs))
    gaps = np.abs(ours - theirs)
    differs = missing | (gaps > tolerance)
    any_time = bool(both.any())
    return Difference(
        name=name,
        upstream_mean=float(theirs[both].mean()) if any_time else None,
        mean=float(ours[both].mean()) if any_time else None,
        p50_difference=float(np.median(gaps[both])) if any_time else None,
        mean_difference=float(gaps[both].mean()) if any_time else None,
        max_difference=float(gaps[both].max()) if any_time else None,
        differing=int(differs.sum()),
        first=int(np.argmax(differs)) if differs.any() else None,
    )


def _row(columns: dict[str, Floats], request: int) -> dict[str, float | None]:
    values = {name: float(column[request]) for name, column in columns.items()}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _our_times(config: SimulationConfig) -> RunTimes:
    """Time `python -m vidur.main`, and the event loop in this process, both after compiling."""
    simulator = Simulator(config)
    _ = simulator.simulation
    started, cpu_started = time.perf_counter(), time.process_time()
    simulator.run()
    loop_wall, loop_cpu = time.perf_counter() - started, time.process_time() - cpu_started
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        document = config.to_dict()
        document["metrics_config"]["output_dir"] = str(folder / "output")
        (folder / "config.json").write_text(json.dumps(document))
        command = [sys.executable, "-m", "vidur.main", "--config", str(folder / "config.json")]
        wall, cpu = _timed(command, Path.cwd(), {}, "vidur.main")
    return RunTimes(wall, cpu, loop_wall, loop_cpu)


def _timed(command: list[str], folder: Path, environment: dict[str, str], what: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a command with its children. Raises InputError with its last line on failure."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Kill the process after Ctrl-C too; the exception is raised again.
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise InputError(f"{what} failed with exit status {process.returncode}: {lines[-1]}")
    return wall, usage.ru_utime + usage.ru_stime


def print_comparison(comparison: Comparison) -> None:
    """Print the tables."""
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    console.print(_times_table(comparison))
    console.print(_differences_table(comparison))
    if comparison.first is not None:
        console.print(_first_table(comparison))
    verdict = "equal" if comparison.is_equal else "different"
    console.print(f"{comparison.num_requests:,} requests: {verdict} at a tolerance of {comparison.tolerance:g} s")


def _times_table(comparison: Comparison) -> Table:
    table = _table("seconds", "upstream", "ours", "ratio")
    for name, label in (
        ("wall", "whole command, wall"), ("cpu", "whole command, CPU"),
        ("loop_wall", "event loop, wall"), ("loop_cpu", "event loop, CPU"),
    ):  # fmt: skip
        theirs, ours = getattr(comparison.upstream_times, name), getattr(comparison.times, name)
        ratio = NOTHING if theirs is None or not ours else significant(theirs / ours)
        table.add_row(label, significant(theirs), significant(ours), ratio)
    return table


def _differences_table(comparison: Comparison) -> Table:
    table = _table(
        "per request", "upstream mean", "our mean", "|difference| p50", "mean", "max", "differing", "first"
    )  # fmt: skip
    for difference in comparison.differences:
        is_time = difference.name in TIMES
        label = f"{TIMES[difference.name]} (s)" if is_time else COUNTS[difference.name]
        gaps = (difference.p50_difference, difference.mean_difference, difference.max_difference)
        shown = [NOTHING if gap is None else f"{gap:.2g}" for gap in gaps] if is_time else [NOTHING] * 3
        means = (difference.upstream_mean, difference.mean) if difference.name != "replica" else (None, None)
        first = NOTHING if difference.first is None else f"{difference.first:,}"
        table.add_row(label, *map(significant, means), *shown, f"{difference.differing:,}", first)
    return table


def _first_table(comparison: Comparison) -> Table:
    assert comparison.first is not None
    number = min(difference.first for difference in comparison.differences if difference.first is not None)
    table = _table(f"request {number}", "upstream", "ours", "difference")
    for name, label in {**COUNTS, **TIMES}.items():
        theirs, ours = comparison.first["upstream"][name], comparison.first["ours"][name]
        gap = NOTHING if theirs is None or ours is None else f"{ours - theirs:+.2g}"
        table.add_row(label, *(NOTHING if value is None else f"{value:.12g}" for value in (theirs, ours)), gap)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in others:
        table.add_column(name, justify="right")
    return table


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = FlagParser(
        prog="compare_with_upstream.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--upstream", type=Path, help="a checkout of microsoft/vidur; relative paths in FLAGS are in it"
    )
    parser.add_argument("--upstream_python", type=Path, help="the Python that runs it (its .venv's if not given)")
    parser.add_argument("--record", type=Path, help="keep upstream's run in this folder")
    parser.add_argument("--recorded", type=Path, help="compare with the run in this folder; upstream is not run")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"seconds; {TOLERANCE:g} if not given")
    parser.add_argument("--json", type=Path, help="also write every figure as JSON")
    options, flags = parser.parse_known_args(argv)
    if (options.upstream is None) == (options.recorded is None):
        raise InputError("give either --upstream CHECKOUT or --recorded FOLDER")
    if not options.tolerance >= 0:
        raise InputError(f"--tolerance must be at least 0, not {options.tolerance}")
    if options.recorded is not None:
        if flags:
            raise InputError(f"{flags[0]}: the flags of a recorded run are in its case.json; give none")
        if not (options.recorded / "case.json").is_file():
            raise InputError(f"--recorded {options.recorded}: no recorded run (no case.json)")
        return options, flags
    if "--config" in flags:
        raise InputError("--config: upstream reads flags only")
    SimulationConfig.from_cli(flags)
    if not any("metrics_config_write_metrics" in flag for flag in flags):
        # Upstream's plots need a browser, and neither side's output is looked at.
        flags = ["--no-metrics_config_write_metrics", *flags]
    return options, flags


if __name__ == "__main__":
    sys.exit(main())
