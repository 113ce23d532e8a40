"""Groups of identical replicas; a mixed cluster has several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from vidur.config.base import Config, setting, settings_of
from vidur.config.device_sku import DEVICES, NODES, DeviceSKU, check_node_holds_device
from vidur.config.replica import ReplicaConfig
from vidur.config.replica_scheduler import BaseReplicaSchedulerConfig
from vidur.errors import InputError


@dataclass(frozen=True)
class ReplicaGroupConfig(Config):
    """A group of identical replicas. A field that is None takes the cluster's value."""

    flag_prefix: ClassVar[str | None] = "cluster_config_replica_groups"
    flag_separator: ClassVar[str] = ": "

    num_replicas: int = setting(1, help="replicas of the group", minimum=1)
    name: str | None = setting(None, help="the group's name; group<number> if none")
    speed: float | None = setting(None, help="relative speed: at 0.5 iterations take twice as long", above=0)
    model_name: str | None = setting(None, help="as --replica_config_model_name")
    memory_margin_fraction: float | None = setting(None, help="as --replica_config_memory_margin_fraction")
    num_pipeline_stages: int | None = setting(None, help="as --replica_config_num_pipeline_stages")
    tensor_parallel_size: int | None = setting(None, help="as --replica_config_tensor_parallel_size")
    device: str | None = setting(None, help="as --replica_config_device", choices=tuple(DEVICES))
    network_device: str | None = setting(
        None, help="as --replica_config_network_device; else the device's default", choices=tuple(NODES)
    )
    batch_size_cap: int | None = setting(None, help="as the replica scheduler's")
    block_size: int | None = setting(None, help="as the replica scheduler's")
    watermark_blocks_fraction: float | None = setting(None, help="as the replica scheduler's")
    num_blocks: int | None = setting(None, help="as the replica scheduler's")
    max_tokens_in_batch: int | None = setting(None, help="as --vllm_scheduler_config_max_tokens_in_batch")
    max_waiting_iters: int | None = setting(None, help="as --lightllm_scheduler_config_max_waiting_iters")
    chunk_size: int | None = setting(None, help="as --sarathi_scheduler_config_chunk_size")
    max_num_batched_tokens: int | None = setting(None, help="as --vllm_v1_scheduler_config_max_num_batched_tokens")
    max_num_seqs: int | None = setting(None, help="as --vllm_v1_scheduler_config_max_num_seqs")
    long_prefill_token_threshold: int | None = setting(
        None, help="as --vllm_v1_scheduler_config_long_prefill_token_threshold"
    )

    def resolve(
        self, name: str, replica_config: ReplicaConfig, replica_scheduler_config: BaseReplicaSchedulerConfig
    ) -> ResolvedGroup:
        """Fill in the cluster's values where the group gives none. Raises InputError, naming the group."""
        given = {
            item.name: getattr(self, item.name)
            for item in settings_of(ReplicaGroupConfig)
            if item.name not in ("name", "num_replicas", "speed") and getattr(self, item.name) is not None
        }
        replica_fields = {item.name for item in settings_of(ReplicaConfig)}
        replica_changes = {key: value for key, value in given.items() if key in replica_fields}
        scheduler_changes = {key: value for key, value in given.items() if key not in replica_fields}
        self._check_known_to_scheduler(name, scheduler_changes, replica_scheduler_config)
        try:
            if "network_device" in replica_changes:
                check_node_holds_device(self.device or replica_config.device, replica_changes["network_device"])
            elif "device" in replica_changes:
                replica_changes["network_device"] = self._network_device(replica_config)
            replica = dataclasses.replace(replica_config, **replica_changes)
            scheduler = dataclasses.replace(replica_scheduler_config, **scheduler_changes)
            scheduler.check_pipeline(replica.num_pipeline_stages)
        except InputError as error:
            raise InputError(f"--cluster_config_replica_groups: group '{name}': {error}") from None
        return ResolvedGroup(name, self.num_replicas, replica, scheduler, 1.0 if self.speed is None else self.speed)

    def _network_device(self, replica_config: ReplicaConfig) -> str:
        assert self.device is not None
        if self.device == replica_config.device:
            return replica_config.network_device
        return DeviceSKU.from_name(self.device).default_node

    @staticmethod
    def _check_known_to_scheduler(name: str, changes: dict[str, Any], config: BaseReplicaSchedulerConfig) -> None:
        fields = {item.name for item in settings_of(type(config))}
        for key in changes:
            if key not in fields:
                raise InputError(
                    f"--cluster_config_replica_groups: group '{name}': {key} is not a setting of "
                    f"--replica_scheduler_config_type {config.get_type()}"
                )


@dataclass(frozen=True)
class ResolvedGroup:
    """A group of identical replicas with every value filled in."""

    name: str
    num_replicas: int
    replica_config: ReplicaConfig
    replica_scheduler_config: BaseReplicaSchedulerConfig
    speed: float = 1.0
