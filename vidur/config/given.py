"""Build a configuration from the values that flags and files give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vidur.config.base import Config, PolyConfig, settings_of
from vidur.config.cluster import ClusterConfig, contradicting_replica_count
from vidur.config.device_sku import NODES, check_node_holds_device
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, CustomGlobalSchedulerConfig
from vidur.config.replica import ReplicaConfig
from vidur.config.simulation import SimulationConfig

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Given:
    """A value for a flag, converted to its type. by_flag: given on the command line, not in a file or mapping."""

    value: Any
    by_flag: bool = False


def build(given: Mapping[str, Given]) -> SimulationConfig:
    """Build a configuration from values by flag name; other settings take their defaults.

    Values of types that are not chosen are ignored, as upstream does. Raises InputError.
    """
    return _make(SimulationConfig, _resolve(given))


def chosen_type(family: type[PolyConfig], default: type[PolyConfig], given: Mapping[str, Given]) -> type[PolyConfig]:
    name = given.get(family.type_flag)
    return default if name is None else family.from_type(name.value)


def _make(cls: type[C], given: Mapping[str, Given]) -> C:
    values: dict[str, Any] = {}
    for item in settings_of(cls):
        if item.is_part and issubclass(item.type, PolyConfig):
            values[item.name] = _make(chosen_type(item.type, item.default, given), given)
        elif item.is_part:
            values[item.name] = _make(item.type, given)
        else:
            name = cls.flag(item.name).lstrip("-")
            if name in given:
                values[item.name] = given[name].value
    return cls(**values)


def _resolve(given: Mapping[str, Given]) -> dict[str, Given]:
    """Resolve conflicts between settings: a command-line flag overrides a related setting from the file."""
    resolved = dict(given)
    _resolve_node(resolved)
    _resolve_replica_count(resolved)
    scheduler = resolved.get(BaseGlobalSchedulerConfig.type_flag)
    if scheduler is not None and ":" in scheduler.value:
        resolved[CustomGlobalSchedulerConfig.flag("scheduler").lstrip("-")] = scheduler
    return resolved


def _resolve_node(resolved: dict[str, Given]) -> None:
    name = ReplicaConfig.flag("network_device").lstrip("-")
    device, node = resolved.get(ReplicaConfig.flag("device").lstrip("-")), resolved.get(name)
    if device is None or node is None:
        return
    if device.by_flag and not node.by_flag and node.value in NODES and NODES[node.value].device != device.value:
        del resolved[name]
    else:
        check_node_holds_device(device.value, node.value)


def _resolve_replica_count(resolved: dict[str, Given]) -> None:
    name = ClusterConfig.flag("num_replicas").lstrip("-")
    groups, count = resolved.get(ClusterConfig.flag("replica_groups").lstrip("-")), resolved.get(name)
    if groups is None or not groups.value or count is None:
        return
    total = sum(group.num_replicas for group in groups.value)
    if groups.by_flag and not count.by_flag:
        del resolved[name]
    elif count.value != total:
        raise contradicting_replica_count(count.value, total)
