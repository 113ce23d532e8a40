"""Communication between devices: the roofline's all-reduce and its transfer between pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vidur.config.device_sku import NODES, NodeSKU
from vidur.config.replica import ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.norm import p_norm
from vidur.execution_time_predictor.roofline_constants import (
    ALL_REDUCE_SIZES,
    CUSTOM_ALL_REDUCE_MAX_BYTES,
    NETWORK_CONSTANTS,
    AllReduce,
    SendRecv,
)
from vidur.execution_time_predictor.tables import FloatArray

# Nodes without constants of their own, and whose they take: those with the same kind of link. The four-device
# all-reduce of the pairwise nodes runs over PCIe, so a PCIe node takes it at every size.
NODE_REFERENCES = {
    "a40_pairwise_nvlink": "a100_pairwise_nvlink",
    "l40s_pcie": "a100_pairwise_nvlink",
    "h200_dgx": "h100_dgx",
    "h200_pairwise_nvlink": "h100_pairwise_nvlink",
    "b200_dgx": "h100_dgx",
}
# A link that no constants exist for reaches the fraction of its peak that NVLink reaches here.
SEND_RECV_REFERENCE = "h100_dgx"


@dataclass(frozen=True)
class Interconnect:
    """Times in microseconds for messages of a number of bytes, on one replica's network."""

    size: int
    small: AllReduce | None
    large: AllReduce | None
    transfer: SendRecv
    note: str

    def all_reduce(self, num_bytes: FloatArray) -> FloatArray:
        """Never falls with the size: a larger message is not faster where the kernels change."""
        assert self.small is not None and self.large is not None
        limit = np.float64(CUSTOM_ALL_REDUCE_MAX_BYTES)
        small = _all_reduce(self.small, self.size, np.minimum(num_bytes, limit))
        large = _all_reduce(self.large, self.size, num_bytes)
        return np.where(num_bytes <= limit, small, np.maximum(small, large))

    def send_recv(self, num_bytes: FloatArray) -> FloatArray:
        return self.transfer.launch_us + num_bytes / (self.transfer.bandwidth_gbps * 1e3)

    @staticmethod
    def of(replica: ReplicaConfig) -> Interconnect:
        """Raises InputError if tensor parallelism spans nodes: nothing was measured there."""
        node, size = replica.node_sku, replica.tensor_parallel_size
        reference = NODES[NODE_REFERENCES.get(node.name, node.name)]
        small, large, notes = None, None, []
        if size > 1:
            small, large = _all_reduce_of(replica, reference)
            if reference is not node:
                notes.append(f"all-reduce scaled from {reference.name} by link bandwidth")
            if size not in NETWORK_CONSTANTS[reference.name].all_reduce:
                notes.append(f"all-reduce among {size} devices by the constants of another number of devices")
        if replica.num_pipeline_stages > 1 and reference is not node:
            notes.append(f"transfers between stages scaled from {reference.name} by link bandwidth")
        return Interconnect(size, small, large, _send_recv_of(replica, reference), ", ".join(notes))


def _all_reduce(constants: AllReduce, size: int, num_bytes: FloatArray) -> FloatArray:
    sent = 2.0 * (size - 1) / size * num_bytes / (constants.bandwidth_gbps * 1e3)
    return constants.launch_us + p_norm(constants.q, np.full_like(sent, constants.floor_us), sent)


def _all_reduce_of(replica: ReplicaConfig, reference: NodeSKU) -> tuple[AllReduce, AllReduce]:
    node, size = replica.node_sku, replica.tensor_parallel_size
    if size > node.num_devices_per_node:
        raise InputError(
            f"{replica.flag('tensor_parallel_size')} {size} spans nodes: {node.name} holds"
            f" {node.num_devices_per_node} devices, and no all-reduce between nodes is known to this predictor;"
            " use a larger node, a smaller size with more pipeline stages, or --execution_time_predictor_config_type"
            " tables"
        )
    known = NETWORK_CONSTANTS[reference.name].all_reduce
    wanted = max(known) if node.interconnect == "pcie" else next(n for n in ALL_REDUCE_SIZES if n >= size)
    nearest = min(wanted, max(known))
    over_pcie = reference.interconnect == "pairwise_nvlink" and nearest > 2
    if over_pcie:
        scale = replica.device_sku.pcie_bandwidth / _pcie_bandwidth(reference)
    else:
        scale = node.link_bandwidth / reference.link_bandwidth
    small, large = (replace(c, bandwidth_gbps=c.bandwidth_gbps * scale) for c in known[nearest])
    return small, large


def _send_recv_of(replica: ReplicaConfig, reference: NodeSKU) -> SendRecv:
    node = replica.node_sku
    constants = NETWORK_CONSTANTS[reference.name]
    if replica.world_size > node.num_devices_per_node:
        return constants.send_recv_between_nodes
    if reference is node or node.link_bandwidth == reference.link_bandwidth:
        return constants.send_recv_in_node
    at_peak = NODES[SEND_RECV_REFERENCE]
    measured = NETWORK_CONSTANTS[SEND_RECV_REFERENCE].send_recv_in_node
    return replace(measured, bandwidth_gbps=measured.bandwidth_gbps * node.link_bandwidth / at_peak.link_bandwidth)


def _pcie_bandwidth(node: NodeSKU) -> float:
    from vidur.config.device_sku import DEVICES

    return DEVICES[node.device].pcie_bandwidth
