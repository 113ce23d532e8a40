"""python -m rl.vllm.replay: simulate a workload that a real cluster has served, and compare the latencies."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from rl.vllm.replay.measured import Measured, as_workload, read_measured
from vidur.atomic import write_text
from vidur.config import BaseGlobalSchedulerConfig, SimulationConfig
from vidur.config.base import Config, setting
from vidur.errors import InputError
from vidur.metrics.statistics import statistics
from vidur.metrics.text import MILLISECONDS, SECONDS, significant
from vidur.tool import run_tool

Floats: TypeAlias = npt.NDArray[np.float64]
LATENCIES = {"ttft": MILLISECONDS, "tpot": MILLISECONDS, "e2e": SECONDS}
SHOWN = ("mean", "p50", "p90")


@dataclass(frozen=True)
class ReplayConfig(Config):
    """The simulation, and the measurements."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "replay"
    help_description: ClassVar[str] = "the simulation, and the measurements"

    simulation: str = setting("calibrated/simulation.yaml", help="the cluster: a configuration of the simulator")
    measured: tuple[str, ...] = setting(
        (), help="SCHEDULER=FILE, one or more: the output of python -m rl.vllm.load under that scheduler"
    )
    overhead_from: str | None = setting(
        None, help="SCHEDULER=FILE of another load, whose median difference in TTFT is the overhead outside the engines"
    )
    output: str | None = setting(None, help="Markdown file of the table")

    def check(self) -> None:
        if not self.measured:
            raise InputError("--measured: give SCHEDULER=FILE, such as lor=measured.jsonl")


@dataclass(frozen=True)
class Latencies:
    """Latencies in seconds, float64[requests] each; tpot is nan for outputs of one token."""

    ttft: Floats
    tpot: Floats
    e2e: Floats

    def later(self, seconds: float) -> Latencies:
        """Return the latencies with a delay before each first token."""
        return Latencies(self.ttft + seconds, self.tpot, self.e2e + seconds)


def measured_latencies(requests: Sequence[Measured]) -> Latencies:
    return Latencies(*(np.array([getattr(request, name) for request in requests]) for name in LATENCIES))


def simulated_latencies(config: SimulationConfig, scheduler: str, requests: list[Measured]) -> Latencies:
    """Simulate the same arrivals. Raises InputError if a request does not finish."""
    # Import numba only after the flags are checked.
    from vidur.simulator import simulate

    router = BaseGlobalSchedulerConfig.from_type(scheduler, "--measured")()
    cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
    result = simulate(dataclasses.replace(config, cluster_config=cluster), as_workload(requests, "as measured"))
    frame = result.requests
    if frame["completed_at"].isna().any():
        raise InputError(f"{frame['completed_at'].isna().sum()} of the requests cannot be served by such replicas")
    return Latencies(*(frame[name].to_numpy(np.float64) for name in ("ttft", "tpot", "request_e2e_time")))


def overhead(predicted: Latencies, measured: Latencies) -> float:
    """Return the seconds that a request spends outside the engines: the median difference in TTFT, at least 0."""
    return max(float(np.median(measured.ttft - predicted.ttft)), 0.0)


def table(compared: Mapping[str, tuple[Latencies, Latencies]]) -> str:
    """Return a Markdown table of each scheduler's predicted and measured latencies, with errors."""
    lines = ["| scheduler | latency | | predicted | measured | error |", "|---|---|---|---|---|---|"]
    for scheduler, (predicted, measured) in compared.items():
        for name, unit in LATENCIES.items():
            of_predicted, of_measured = statistics(getattr(predicted, name)), statistics(getattr(measured, name))
            for figure in SHOWN:
                first, second = of_predicted[figure], of_measured[figure]
                if first is None or second is None:
                    continue
                times = [f"{significant(value * unit.per_second)} {unit.name}" for value in (first, second)]
                error = f"{100 * (first / second - 1):+.1f} %"
                lines.append(f"| `{scheduler}` | {name.upper()} | {figure} | {times[0]} | {times[1]} | {error} |")
    return "\n".join(lines) + "\n"


def _read(text: str) -> tuple[str, list[Measured]]:
    scheduler, equals, path = text.partition("=")
    if not equals:
        raise InputError(f"--measured: expected SCHEDULER=FILE, not {text!r}")
    return scheduler, read_measured(path)


def replay(config: ReplayConfig) -> str:
    """Return the table, after a line on the overhead. Raises InputError."""
    simulation = SimulationConfig.from_file(Path(config.simulation))
    delay, text = 0.0, ""
    if config.overhead_from is not None:
        scheduler, requests = _read(config.overhead_from)
        delay = overhead(simulated_latencies(simulation, scheduler, requests), measured_latencies(requests))
        text = f"A request spends {significant(1e3 * delay)} ms outside the engines.\n\n"
    compared: dict[str, Any] = {}
    for item in config.measured:
        scheduler, requests = _read(item)
        predicted = simulated_latencies(simulation, scheduler, requests).later(delay)
        compared[scheduler] = predicted, measured_latencies(requests)
    return text + table(compared)


def main(argv: Sequence[str] | None = None) -> int:
    """Replay as the flags say and return the exit status."""
    return run_tool("rl.vllm.replay", (ReplayConfig,), _replay, argv, description=__doc__ or "")


def _replay(config: ReplayConfig) -> None:
    text = replay(config)
    if config.output is not None:
        write_text(config.output, text)
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
