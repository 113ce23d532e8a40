"""What a simulation is judged by: one number for each metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import FINISHED, Recording
from vidur.metrics.latency import latencies, meets_objectives
from vidur.metrics.statistics import statistics
from vidur.metrics.text import NOTHING, in_seconds, percent, significant
from vidur.observation import Floats

# Of the requests, in the order of their arrival, so many are left out at either end.
WARM_UP = 0.05
# Prompts of more tokens than this are long.
LONG_PROMPT = 3000
TIMES, _STATISTICS = ("ttft", "tpot", "e2e"), ("mean", "p50", "p90", "p99")
HIGHER_IS_BETTER = ("goodput", "throughput", "token_throughput")
METRICS = (
    *(f"{figure}_{time}" for time in TIMES for figure in _STATISTICS), "long_p99_ttft", *HIGHER_IS_BETTER,
    "preemptions", "imbalance", "unserved",
)  # fmt: skip
_UNITS = {"goodput": "requests/s", "throughput": "requests/s", "token_throughput": "tokens/s"}

Figures = dict[str, float]


@dataclass(frozen=True)
class Objectives:
    """Seconds that a request should keep to, for goodput."""

    ttft: float
    tpot: float


def metric_title(metric: str) -> str:
    """`p99 TTFT` for p99_ttft."""
    if metric == "long_p99_ttft":
        return f"p99 TTFT over {LONG_PROMPT:,} tokens"
    figure, _, time = metric.partition("_")
    return f"{figure} {time.upper()}" if time in TIMES else metric.replace("_", " ")


def metric_unit(metric: str) -> str:
    """`s`, `requests/s`, `tokens/s`, or nothing."""
    return "s" if metric.endswith(TIMES) else _UNITS.get(metric, "")


def value_text(metric: str, value: float) -> str:
    """A metric's value, with its unit if it is a time."""
    if math.isnan(value):
        return NOTHING
    if metric == "imbalance":
        return percent(value)
    return in_seconds(value) if metric.endswith(TIMES) else significant(value)


def counted_requests(recording: Recording) -> NDArray[np.bool_]:
    """All but those that arrive in the warm-up and in the cool-down: bool[N]."""
    count = len(recording.requests["arrived_at"])
    cut = int(WARM_UP * count)
    counted = np.zeros(count, np.bool_)
    counted[cut : count - cut] = True
    return counted


def figures_of(recording: Recording, objectives: Objectives, speeds: Floats | None = None) -> Figures:
    """The METRICS of a run. Times are in seconds, over the counted requests that finished. A metric of nothing is nan.

    goodput: requests that met the objectives, per second of the time over which they arrived. throughput and
    token_throughput: requests completed in that time, and their output tokens, per second. preemptions: of the whole
    run. imbalance: see `imbalance`; speeds: float64[R], of the replicas, all alike if None. unserved: counted requests
    that were refused or did not finish.
    """
    requests = recording.requests
    counted = counted_requests(recording)
    arrived_at = requests["arrived_at"][counted]
    begin, end = float(arrived_at[0]), float(arrived_at[-1])
    span = end - begin if end > begin else math.nan
    finished = counted & (requests["status"] == FINISHED)
    times = latencies(recording, finished)
    figures: Figures = {}
    for time in TIMES:
        found = statistics(times[time])
        figures |= {f"{figure}_{time}": _number(found[figure]) for figure in _STATISTICS}
    long = times["ttft"][requests["num_prefill_tokens"][finished] > LONG_PROMPT]
    figures["long_p99_ttft"] = float(np.percentile(long, 99)) if len(long) else math.nan
    figures["goodput"] = float(meets_objectives(times, objectives.ttft, objectives.tpot).sum() / span)
    within = (requests["completed_at"] >= begin) & (requests["completed_at"] < end)
    figures["throughput"] = float(within.sum() / span)
    figures["token_throughput"] = float(requests["num_decode_tokens"][within].sum() / span)
    figures["preemptions"] = float(recording.replicas["num_preemptions"].sum())
    figures["imbalance"] = imbalance(recording, begin, end, speeds)
    figures["unserved"] = float(counted.sum() - finished.sum())
    return figures


def imbalance(recording: Recording, begin: float, end: float, speeds: Floats | None = None) -> float:
    """How unevenly the outstanding requests lie on the replicas from `begin` to `end`, seconds.

    With x the outstanding requests of each replica over its speed: the integral over time of the standard deviation of
    x over the replicas, over the integral of its mean. So 0 is even at every moment, and 1 is what requests thrown at
    random have where there is one for each replica. A request counts for its last replica, from its arrival on.
    """
    requests, num_replicas = recording.requests, len(recording.replicas["num_blocks"])
    moments, total, squares = [], [], []
    for replica in range(num_replicas):
        at, level = outstanding(recording, replica)
        level /= 1.0 if speeds is None else speeds[replica]
        moments.append(at)
        total.append(np.diff(level, prepend=0.0))
        squares.append(np.diff(level**2, prepend=0.0))
    at = np.concatenate(moments)
    order = np.argsort(at, kind="stable")
    edges = np.clip(np.concatenate([at[order], [np.inf]]), begin, end)
    lasted = np.diff(edges)
    mean = np.cumsum(np.concatenate(total)[order]) / num_replicas
    variance = np.cumsum(np.concatenate(squares)[order]) / num_replicas - mean**2
    # Rounding leaves a little below 0 where all are alike.
    spread = np.sqrt(np.where(variance > 1e-9 * (1.0 + mean**2), variance, 0.0))
    held = float((mean * lasted).sum())
    return float((spread * lasted).sum()) / held if held > 0.0 and len(requests["replica"]) else math.nan


def outstanding(recording: Recording, replica: int) -> tuple[Floats, Floats]:
    """The moments, ascending, at which the outstanding requests of a replica change, and how many there are then."""
    requests = recording.requests
    placed = requests["replica"] == replica
    arrived_at, completed_at = requests["arrived_at"][placed], requests["completed_at"][placed]
    ended = np.where(requests["status"][placed] == FINISHED, completed_at, recording.end_time)
    at = np.concatenate([arrived_at, ended])
    order = np.argsort(at, kind="stable")
    changes = np.concatenate([np.ones(len(arrived_at)), -np.ones(len(ended))])
    return at[order], np.cumsum(changes[order])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
