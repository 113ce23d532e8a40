"""What was given, by flag or by file, and the configuration that it makes."""

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
    """A value given for a flag, conformed to its type, and whether on the command line (else in a file or mapping)."""

    value: Any
    by_flag: bool = False


def build(given: Mapping[str, Given]) -> SimulationConfig:
    """The configuration that values by flag name make; the rest takes its default.

    Values of a type that is not the one chosen are ignored, as upstream does. Raises InputError.
    """
    return _make(SimulationConfig, _settle(given))


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


def _settle(given: Mapping[str, Given]) -> dict[str, Given]:
    """Settle what one value says of another: a flag lets go of what a file said beside it."""
    settled = dict(given)
    _settle_node(settled)
    _settle_replica_count(settled)
    scheduler = settled.get(BaseGlobalSchedulerConfig.type_flag)
    if scheduler is not None and ":" in scheduler.value:
        settled[CustomGlobalSchedulerConfig.flag("scheduler").lstrip("-")] = scheduler
    return settled


def _settle_node(settled: dict[str, Given]) -> None:
    name = ReplicaConfig.flag("network_device").lstrip("-")
    device, node = settled.get(ReplicaConfig.flag("device").lstrip("-")), settled.get(name)
    if device is None or node is None:
        return
    if device.by_flag and not node.by_flag and node.value in NODES and NODES[node.value].device != device.value:
        del settled[name]
    else:
        check_node_holds_device(device.value, node.value)


def _settle_replica_count(settled: dict[str, Given]) -> None:
    name = ClusterConfig.flag("num_replicas").lstrip("-")
    groups, count = settled.get(ClusterConfig.flag("replica_groups").lstrip("-")), settled.get(name)
    if groups is None or not groups.value or count is None:
        return
    total = sum(group.num_replicas for group in groups.value)
    if groups.by_flag and not count.by_flag:
        del settled[name]
    elif count.value != total:
        raise contradicting_replica_count(count.value, total)
