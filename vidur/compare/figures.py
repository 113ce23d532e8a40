"""Compute the metrics by which a simulation is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import FINISHED, Recording
from vidur.metrics.latency import latencies, meets_objectives
from vidur.metrics.prefix_cache import caches, seconds_saved
from vidur.metrics.statistics import statistics
from vidur.metrics.text import NOTHING, in_seconds, percent, significant
from vidur.observation import Floats

# The fraction of requests, by arrival, that is not counted at either end.
WARM_UP = 0.05
# Prompts of more tokens than this are long.
LONG_PROMPT = 3000
TIMES, _STATISTICS = ("ttft", "tpot", "e2e"), ("mean", "p50", "p90", "p99")
_RATES = ("goodput", "throughput", "token_throughput")
METRICS = (
    *(f"{figure}_{time}" for time in TIMES for figure in _STATISTICS), "long_p99_ttft", *_RATES,
    "preemptions", "imbalance", "unserved",
)  # fmt: skip
# Metrics of runs with prefix caches.
CACHE_METRICS = ("hit_rate", "prefill_seconds_saved")
HIGHER_IS_BETTER = (*_RATES, *CACHE_METRICS)
_SHARES = ("imbalance", "hit_rate")
_UNITS = {"goodput": "requests/s", "throughput": "requests/s", "token_throughput": "tokens/s",
          "prefill_seconds_saved": "s"}  # fmt: skip

Figures = dict[str, float]


@dataclass(frozen=True)
class Objectives:
    """Objectives of TTFT and TPOT in seconds, for goodput."""

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
    """Return a metric's value, with its unit if it is a time."""
    if math.isnan(value):
        return NOTHING
    if is_share(metric):
        return percent(value)
    return in_seconds(value) if metric_unit(metric) == "s" else significant(value)


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric in _SHARES


def counted_requests(recording: Recording) -> NDArray[np.bool_]:
    """bool[N]: whether each request arrives after the warm-up and before the cool-down.

    False for requests that never arrive, because one that they follow did not end.
    """
    arrived_at = recording.requests["arrived_at"]
    count = int(np.count_nonzero(~np.isnan(arrived_at)))
    cut = int(WARM_UP * count)
    counted = np.zeros(len(arrived_at), np.bool_)
    counted[np.argsort(arrived_at, kind="stable")[cut : count - cut]] = True
    return counted


def figures_of(recording: Recording, objectives: Objectives, speeds: Floats | None = None) -> Figures:
    """Return the METRICS of a run, and with prefix caches the CACHE_METRICS; nan if undefined.

    Times are seconds, over counted requests that finished.

    goodput: counted requests that met the objectives, per second of their arrival span. throughput, token_throughput:
    requests completed in that span, and their output tokens, per second. preemptions: of the whole run. imbalance: see
    `imbalance`. unserved: counted requests refused or unfinished, and those that never arrived. hit_rate,
    prefill_seconds_saved: of counted requests (vidur.metrics.prefix_cache). speeds: float64[R]; equal replicas if None.
    """
    requests = recording.requests
    counted = counted_requests(recording)
    arrived_at = requests["arrived_at"][counted]
    begin, end = float(arrived_at.min()), float(arrived_at.max())
    span = end - begin if end > begin else math.nan
    finished = counted & (requests["status"] == FINISHED)
    times = latencies(recording, finished)
    figures: Figures = {}
    for time in TIMES:
        values = statistics(times[time])
        figures |= {f"{figure}_{time}": _number(values[figure]) for figure in _STATISTICS}
    long = times["ttft"][requests["num_prefill_tokens"][finished] > LONG_PROMPT]
    figures["long_p99_ttft"] = float(np.percentile(long, 99)) if len(long) else math.nan
    figures["goodput"] = float(meets_objectives(times, objectives.ttft, objectives.tpot).sum() / span)
    within = (requests["completed_at"] >= begin) & (requests["completed_at"] < end)
    figures["throughput"] = float(within.sum() / span)
    figures["token_throughput"] = float(requests["num_decode_tokens"][within].sum() / span)
    figures["preemptions"] = float(recording.replicas["num_preemptions"].sum())
    figures["imbalance"] = imbalance(recording, begin, end, speeds)
    figures["unserved"] = float(counted.sum() - finished.sum() + np.isnan(requests["arrived_at"]).sum())
    if caches(recording):
        begun = counted & ~np.isnan(requests["scheduled_at"])
        prompts, cached = (int(requests[name][begun].sum()) for name in ("num_prefill_tokens", "num_cached_tokens"))
        figures["hit_rate"] = cached / prompts if prompts else math.nan
        figures["prefill_seconds_saved"] = float(seconds_saved(recording)[begun].sum())
    return figures


def imbalance(recording: Recording, begin: float, end: float, speeds: Floats | None = None) -> float:
    """Return how unevenly outstanding requests are spread over replicas from `begin` to `end` (seconds).

    With x the outstanding requests of each replica over its speed: the time integral of the standard deviation of x
    over replicas, divided by the time integral of its mean. 0: always even; 1: as random placement at one request per
    replica. A request counts for its last replica, from its arrival on.
    """
    requests, num_replicas = recording.requests, len(recording.replicas["num_blocks"])
    moments, total, squares = [], [], []
    for replica in range(num_replicas):
        times, level = outstanding(recording, replica)
        level /= 1.0 if speeds is None else speeds[replica]
        moments.append(times)
        total.append(np.diff(level, prepend=0.0))
        squares.append(np.diff(level**2, prepend=0.0))
    times = np.concatenate(moments)
    order = np.argsort(times, kind="stable")
    edges = np.clip(np.concatenate([times[order], [np.inf]]), begin, end)
    lasted = np.diff(edges)
    mean = np.cumsum(np.concatenate(total)[order]) / num_replicas
    variance = np.cumsum(np.concatenate(squares)[order]) / num_replicas - mean**2
    # Rounding can leave a tiny or negative variance if all replicas are equal.
    spread = np.sqrt(np.where(variance > 1e-9 * (1.0 + mean**2), variance, 0.0))
    total_mean = float((mean * lasted).sum())
    return float((spread * lasted).sum()) / total_mean if total_mean > 0.0 and len(requests["replica"]) else math.nan


def outstanding(recording: Recording, replica: int) -> tuple[Floats, Floats]:
    """Return the ascending times at which a replica's outstanding requests change, and their new number."""
    requests = recording.requests
    placed = requests["replica"] == replica
    arrived_at, completed_at = requests["arrived_at"][placed], requests["completed_at"][placed]
    ended = np.where(requests["status"][placed] == FINISHED, completed_at, recording.end_time)
    times = np.concatenate([arrived_at, ended])
    order = np.argsort(times, kind="stable")
    changes = np.concatenate([np.ones(len(arrived_at)), -np.ones(len(ended))])
    return times[order], np.cumsum(changes[order])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
