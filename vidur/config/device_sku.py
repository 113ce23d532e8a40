"""Devices and nodes. Peak figures are from NVIDIA's data sheets: dense bf16, no sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from vidur.errors import InputError, unknown_name


@dataclass(frozen=True)
class DeviceSKU:
    """A device.

    fp16_tflops (2**40 FLOP/s, for FLOP utilization) and total_memory_gb (GiB, for memory planning) are upstream's.
    peak_flops (FLOP/s), memory_bandwidth, pcie_bandwidth (B/s, one direction) and num_sms are from the data sheet.
    """

    name: str
    fp16_tflops: int
    total_memory_gb: int
    peak_flops: float
    memory_bandwidth: float
    num_sms: int
    pcie_bandwidth: float
    default_node: str

    @classmethod
    def from_name(cls, name: str, where: str = "--replica_config_device") -> DeviceSKU:
        if name not in DEVICES:
            raise unknown_name(where, name, DEVICES)
        return DEVICES[name]


@dataclass(frozen=True)
class NodeSKU:
    """A node. interconnect: pairwise_nvlink (bridged pairs, PCIe between pairs), nvswitch (all to all) or pcie.
    link_bandwidth: B/s per device, one direction, on the fastest link.
    """

    name: str
    device: str
    num_devices_per_node: int
    interconnect: str
    link_bandwidth: float

    @classmethod
    def from_name(cls, name: str, where: str = "--replica_config_network_device") -> NodeSKU:
        if name not in NODES:
            raise unknown_name(where, name, NODES)
        return NODES[name]


DEVICES = {
    device.name: device
    for device in (
        DeviceSKU("a40", 150, 45, 149.7e12, 696e9, 84, 32e9, "a40_pairwise_nvlink"),
        DeviceSKU("a100", 312, 80, 312e12, 2039e9, 108, 32e9, "a100_pairwise_nvlink"),
        DeviceSKU("h100", 1000, 80, 989e12, 3350e9, 132, 64e9, "h100_pairwise_nvlink"),
        DeviceSKU("h200", 989, 141, 989e12, 4800e9, 132, 64e9, "h200_dgx"),
        DeviceSKU("l40s", 362, 48, 362e12, 864e9, 142, 32e9, "l40s_pcie"),
        DeviceSKU("b200", 2250, 180, 2250e12, 8000e9, 148, 64e9, "b200_dgx"),
    )
}

NODES = {
    node.name: node
    for node in (
        NodeSKU("a40_pairwise_nvlink", "a40", 8, "pairwise_nvlink", 56.25e9),
        NodeSKU("a100_pairwise_nvlink", "a100", 4, "pairwise_nvlink", 300e9),
        NodeSKU("h100_pairwise_nvlink", "h100", 4, "pairwise_nvlink", 300e9),
        NodeSKU("a100_dgx", "a100", 8, "nvswitch", 300e9),
        NodeSKU("h100_dgx", "h100", 8, "nvswitch", 450e9),
        NodeSKU("h200_dgx", "h200", 8, "nvswitch", 450e9),
        NodeSKU("h200_pairwise_nvlink", "h200", 4, "pairwise_nvlink", 450e9),
        NodeSKU("l40s_pcie", "l40s", 8, "pcie", 32e9),
        NodeSKU("b200_dgx", "b200", 8, "nvswitch", 900e9),
    )
}


def check_node_holds_device(device: str, network_device: str, where: str = "--replica_config") -> None:
    """Raise InputError if the node is unknown or has other devices. `where` is the common prefix of the flags."""
    node = NodeSKU.from_name(network_device, f"{where}_network_device")
    DeviceSKU.from_name(device, f"{where}_device")
    if node.device != device:
        nodes = ", ".join(sorted(name for name, candidate in NODES.items() if candidate.device == device))
        raise InputError(
            f"{where}_network_device {network_device} is a node of {node.device}, not of "
            f"{where}_device {device}: valid there: {nodes}"
        )
