"""A replica: a model on a number of devices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.config.device_sku import DEVICES, NODES, DeviceSKU, NodeSKU, check_node_holds_device
from vidur.config.model import ModelConfig
from vidur.errors import InputError

DEFAULT_NETWORK_DEVICE = "a100_pairwise_nvlink"


@dataclass(frozen=True)
class ReplicaConfig(Config):
    """A replica's model and devices. The default `network_device` stands for the device's default node."""

    help_title: ClassVar[str] = "replica"
    help_description: ClassVar[str] = "the model and the devices that each replica runs on"

    model_name: str = setting(
        "meta-llama/Llama-2-7b-hf", help="a known model, or the path of a Hugging Face config.json (or its folder)"
    )
    memory_margin_fraction: float = setting(0.1, help="fraction of the device's memory kept free", minimum=0, below=1)
    num_pipeline_stages: int = setting(1, help="pipeline stages; must divide the layers", minimum=1)
    tensor_parallel_size: int = setting(1, help="devices of a stage; must divide heads and embedding", minimum=1)
    device: str = setting("a100", help="a40, a100, h100, h200, l40s or b200", choices=tuple(DEVICES))
    network_device: str = setting(
        DEFAULT_NETWORK_DEVICE,
        choices=tuple(NODES),
        help="the node that holds the devices; the device's default node if only --replica_config_device is given",
    )

    @cached_property
    def model(self) -> ModelConfig:
        return ModelConfig.from_name(self.model_name)

    @property
    def device_sku(self) -> DeviceSKU:
        return DeviceSKU.from_name(self.device)

    @property
    def node_sku(self) -> NodeSKU:
        return NodeSKU.from_name(self.network_device)

    @property
    def world_size(self) -> int:
        """Devices of the replica."""
        return self.num_pipeline_stages * self.tensor_parallel_size

    @property
    def layers_per_stage(self) -> int:
        return self.model.num_layers // self.num_pipeline_stages

    def check(self) -> None:
        if self.network_device == DEFAULT_NETWORK_DEVICE:
            object.__setattr__(self, "network_device", self.device_sku.default_node)
        check_node_holds_device(self.device, self.network_device)
        self._check_tensor_parallel()
        stages = self.num_pipeline_stages
        if self.model.num_layers % stages:
            raise InputError(
                f"{self.flag('num_pipeline_stages')} {stages} does not divide the {self.model.num_layers} layers "
                f"of {self.model_name}: valid: {_divisors(self.model.num_layers)}"
            )
        per_node = self.node_sku.num_devices_per_node
        if self.world_size > per_node and self.world_size % per_node:
            raise InputError(
                f"{self.flag('network_device')} {self.network_device} has {per_node} devices a node: the replica's "
                f"{self.world_size} (tensor_parallel_size x num_pipeline_stages) do not fill whole nodes"
            )

    def _check_tensor_parallel(self) -> None:
        size, model = self.tensor_parallel_size, self.model
        for count, kind in ((model.num_q_heads, "attention heads"), (model.embedding_dim, "embedding dimensions")):
            if count % size:
                raise InputError(
                    f"{self.flag('tensor_parallel_size')} {size} does not divide the {count} {kind} of "
                    f"{self.model_name}: valid: {_divisors(model.num_q_heads, model.embedding_dim)}"
                )


def _divisors(*numbers: int) -> str:
    return ", ".join(
        str(divisor) for divisor in range(1, min(numbers) + 1) if all(number % divisor == 0 for number in numbers)
    )
