"""Describe what was simulated, in one line each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vidur.config import ClusterConfig, ResolvedGroup

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult


def describe_cluster(cluster: ClusterConfig) -> str:
    """Describe the replicas, group by group."""
    groups = cluster.groups
    if len(groups) == 1:
        return describe_group(groups[0])
    return " + ".join(f"{group.name}: {describe_group(group)}" for group in groups)


def describe_group(group: ResolvedGroup) -> str:
    replica = group.replica_config
    text = f"{group.num_replicas} x {replica.model_name} on {replica.device}"
    if replica.tensor_parallel_size > 1:
        text += f", tensor parallel {replica.tensor_parallel_size}"
    if replica.num_pipeline_stages > 1:
        text += f", {replica.num_pipeline_stages} pipeline stages"
    return text


def describe_schedulers(cluster: ClusterConfig) -> str:
    several = f"{cluster.num_routers} x " if cluster.num_routers > 1 else ""
    return f"{several}{cluster.global_scheduler_config.get_type()} over {cluster.replica_scheduler_config.get_type()}"


def describe_predictor(result: SimulationResult) -> str:
    kind = result.config.execution_time_predictor_config.get_type()
    sources = unique(plan.tables.source for plan in result.hardware)
    return f"{kind} ({'; '.join(sources)})" if sources else kind


def unique(texts: Iterable[str]) -> list[str]:
    """Return the distinct nonempty texts in order."""
    return [text for text in dict.fromkeys(texts) if text]
