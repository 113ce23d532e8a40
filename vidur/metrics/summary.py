"""Compute the figures of a run, the contents of summary.json."""

from __future__ import annotations

import math
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

import vidur
from vidur.engine.recording import FINISHED, REFUSED, UNFINISHED, Recording
from vidur.metrics.batch_runs import counted_requests, only_batches
from vidur.metrics.columns import duration, num_batches, replica_columns
from vidur.metrics.describe import describe_cluster, describe_group, describe_predictor, describe_schedulers
from vidur.metrics.latency import latencies, meets_objectives
from vidur.metrics.mfu import model_flop_utilization
from vidur.metrics.operations import operation_totals
from vidur.metrics.prefix_cache import cache_figures, caches, replica_cache_columns
from vidur.metrics.statistics import statistics, weighted_statistics

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult

Section = dict[str, Any]


def summary(
    result: SimulationResult, ttft_objective: float | None = None, tpot_objective: float | None = None
) -> Section:
    """Return plain JSON values in seconds, counts and fractions; None if undefined (docs/output.md).

    With an objective (seconds) includes goodput, the finished requests per second that met all given ones. Without any,
    the configuration's SLOs apply.
    """
    recording, metrics = result.recording, result.config.metrics_config
    limits = metrics.min_batch_index, metrics.max_batch_index
    times = latencies(recording, counted_requests(recording, result.runs, *limits))
    figures: Section = {
        "partial": recording.partial,
        "cluster": describe_cluster(result.config.cluster_config),
        "schedulers": describe_schedulers(result.config.cluster_config),
        "workload": result.workload,
        "execution_times": describe_predictor(result),
        "requests": _requests(recording),
        "end_time": recording.end_time,
        "duration": duration(recording),
        "throughput": _throughput(recording),
        "latency": {**{name: statistics(values) for name, values in times.items()}, "itl": _token_latency(result)},
    }
    if caches(recording):
        figures["prefix_cache"] = cache_figures(recording)
    if met := goodput(result, ttft_objective, tpot_objective):
        figures["goodput"] = met
    if metrics.store_batch_metrics:
        figures["batches"] = _batches(result)
    if metrics.store_operation_metrics:
        figures["operation_seconds"] = operation_totals(result)
    figures["groups"] = _groups(result)
    figures["replicas"] = _replicas(result)
    figures["routing_decisions"] = recording.routing_decisions
    if result.wall_seconds is not None:
        figures["speed"] = _speed(result, result.wall_seconds)
    figures["versions"] = {"vidur": vidur.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return figures


def goodput(result: SimulationResult, ttft: float | None = None, tpot: float | None = None) -> Section:
    """Return the summary's `goodput`: requests that met the objectives (seconds). Empty without an objective.

    If none is given, the configuration's SLOs apply.
    """
    if ttft is None and tpot is None:
        ttft, tpot = result.config.slo_ttft, result.config.slo_tpot
    if ttft is None and tpot is None:
        return {}
    recording, metrics = result.recording, result.config.metrics_config
    counted = counted_requests(recording, result.runs, metrics.min_batch_index, metrics.max_batch_index)
    times = latencies(recording, counted)
    met, only_ttft, only_tpot = (
        int(meets_objectives(times, *objectives).sum()) for objectives in ((ttft, tpot), (ttft, None), (None, tpot))
    )
    finished = int(counted.sum())
    return {
        "ttft_objective": ttft,
        "tpot_objective": tpot,
        "ttft_attainment": _rate(only_ttft, finished),
        "tpot_attainment": _rate(only_tpot, finished),
        "requests_per_second": _rate(met, duration(recording)),
        "fraction_of_finished": _rate(met, finished),
    }


def _token_latency(result: SimulationResult) -> Section:
    values, weights, exact = result.token_latencies
    return {**weighted_statistics(values, weights), "exact": _number(exact)}


def _requests(recording: Recording) -> Section:
    requests = recording.requests
    status = np.bincount(requests["status"], minlength=3)
    return {
        "total": len(requests["status"]),
        "finished": int(status[FINISHED]),
        "refused": int(status[REFUSED]),
        "unfinished": int(status[UNFINISHED]),
        "restarts": int(requests["num_restarts"].sum()),
        "reroutes": int(requests["num_reroutes"].sum()),
    }


def _throughput(recording: Recording) -> Section:
    """Return finished requests and their tokens per second of the duration."""
    requests = recording.requests
    finished = requests["status"] == FINISHED
    output = int(requests["num_decode_tokens"][finished].sum())
    seconds = duration(recording)
    return {
        "requests_per_second": _rate(int(finished.sum()), seconds),
        "output_tokens_per_second": _rate(output, seconds),
        "tokens_per_second": _rate(output + int(requests["num_prefill_tokens"][finished].sum()), seconds),
    }


def _batches(result: SimulationResult) -> Section:
    metrics = result.config.metrics_config
    runs = only_batches(result.runs, metrics.min_batch_index, metrics.max_batch_index)
    count = runs["count"]
    is_cut = metrics.min_batch_index is not None or metrics.max_batch_index is not None
    names = {"size": "batch_size", "num_tokens": "num_tokens", "execution_time": "execution_time"}
    return {
        "count": int(count.sum(dtype=np.int64)) if is_cut else num_batches(result.recording, runs),
        **{name: weighted_statistics(runs[column], count) for name, column in names.items()},
    }


def _groups(result: SimulationResult) -> list[Section]:
    num_blocks = result.recording.replicas["num_blocks"]
    group = result.recording.replicas["group"]
    return [
        {
            "name": resolved.name,
            "replicas": resolved.num_replicas,
            "description": describe_group(resolved),
            "kv_cache_blocks": int(num_blocks[group == number].max(initial=0)),
            "execution_times": plan.tables.source,
        }
        for number, (resolved, plan) in enumerate(
            zip(result.config.cluster_config.groups, result.hardware, strict=True)
        )
    ]


def _replicas(result: SimulationResult) -> list[Section]:
    columns = replica_columns(result.recording, result.runs)
    groups = result.config.cluster_config.groups
    seconds = duration(result.recording)
    utilization = np.full(len(columns["replica"]), np.nan)
    busy = np.zeros(len(utilization))
    for number, resolved in enumerate(groups):
        selected = columns["group"] == number
        num_stages = resolved.replica_config.num_pipeline_stages
        busy[selected] = sum(columns[f"busy_time_stage{stage}"][selected] for stage in range(num_stages)) / num_stages
        if len(result.runs["count"]):
            utilization[selected] = model_flop_utilization(
                resolved.replica_config,
                columns["num_tokens"][selected],
                columns["attention_token_pairs"][selected],
                seconds,
            )
    shown = result.config.metrics_config.store_utilization_metrics
    cached = replica_cache_columns(result.recording)
    return [
        {
            "replica": number,
            "group": groups[columns["group"][number]].name,
            "requests": int(columns["num_requests"][number]),
            "preemptions": int(columns["num_preemptions"][number]),
            **(
                {
                    "busy": _rate(float(busy[number]), seconds),
                    "kv_use_mean": _number(columns["kv_use_mean"][number]),
                    "kv_use_max": _number(columns["kv_use_max"][number]),
                    "mfu": _number(utilization[number]),
                }
                if shown
                else {}
            ),
            **{name: None if math.isnan(value := values[number].item()) else value for name, values in cached.items()},
        }
        for number in range(len(busy))
    ]


def _speed(result: SimulationResult, wall_seconds: float) -> Section:
    batches = num_batches(result.recording, result.runs)
    return {
        "wall_seconds": wall_seconds,
        "requests_per_second": _rate(len(result.recording.requests["status"]), wall_seconds),
        "batches_per_second": None if batches is None else _rate(batches, wall_seconds),
    }


def _rate(amount: float, per: float) -> float | None:
    return amount / per if per > 0 else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
