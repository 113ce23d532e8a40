"""The roofline's communication times: all-reduce, and transfer between pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vidur.config.device_sku import DEVICES, NODES, NodeSKU
from vidur.config.replica import ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor.norm import p_norm
from vidur.execution_time_predictor.roofline_constants import (
    CUSTOM_ALL_REDUCE_MAX_BYTES,
    NETWORK_CONSTANTS,
    AllReduce,
    SendRecv,
)
from vidur.execution_time_predictor.tables import FloatArray

# Unmeasured nodes take the all-reduce of a node with the same kind of link, scaled by bandwidth.
ALL_REDUCE_REFERENCES = {
    "a40_pairwise_nvlink": "a100_pairwise_nvlink",
    "h200_pairwise_nvlink": "h100_pairwise_nvlink",
}
# An unmeasured transfer reaches the fraction of its link's peak that NVLink reaches here, and takes this node's network
# between nodes.
SEND_RECV_REFERENCE = "h100_dgx"


@dataclass(frozen=True)
class Interconnect:
    """Communication times on a replica's network, in microseconds by message bytes. note: what was not measured."""

    size: int
    small: AllReduce | None
    large: AllReduce | None
    transfer: SendRecv | None
    note: str

    @staticmethod
    def of(replica: ReplicaConfig) -> Interconnect:
        """Make it for a replica. Raises InputError if tensor parallelism spans nodes, which was not measured."""
        small, large, transfer, notes = None, None, None, []
        if replica.tensor_parallel_size > 1:
            small, large, note = _all_reduce_of(replica)
            notes.append(note)
        if replica.num_pipeline_stages > 1:
            transfer, note = _send_recv_of(replica)
            notes.append(note)
        return Interconnect(replica.tensor_parallel_size, small, large, transfer, ", ".join(filter(None, notes)))

    def all_reduce(self, num_bytes: FloatArray) -> FloatArray:
        """Return the time of an all-reduce, kept nondecreasing in size where the kernel changes."""
        assert self.small is not None and self.large is not None
        limit = np.float64(CUSTOM_ALL_REDUCE_MAX_BYTES)
        small = _all_reduce(self.small, self.size, np.minimum(num_bytes, limit))
        large = _all_reduce(self.large, self.size, num_bytes)
        return np.where(num_bytes <= limit, small, np.maximum(small, large))

    def send_recv(self, num_bytes: FloatArray) -> FloatArray:
        assert self.transfer is not None
        return self.transfer.launch_us + num_bytes / (self.transfer.bandwidth_gbps * 1e3)


def _all_reduce(constants: AllReduce, size: int, num_bytes: FloatArray) -> FloatArray:
    sent = 2.0 * (size - 1) / size * num_bytes / (constants.bandwidth_gbps * 1e3)
    return constants.launch_us + p_norm(constants.q, np.full_like(sent, constants.floor_us), sent)


def _all_reduce_of(replica: ReplicaConfig) -> tuple[AllReduce, AllReduce, str]:
    """Return constants for small and for larger messages, and a note on what was not measured."""
    node, size = replica.node_sku, replica.tensor_parallel_size
    if size > node.num_devices_per_node:
        raise InputError(
            f"{replica.flag('tensor_parallel_size')} {size} spans nodes: {node.name} holds"
            f" {node.num_devices_per_node} devices, and roofline knows no all-reduce between nodes; use a larger node,"
            " or a smaller size with more pipeline stages"
        )
    reference = NODES[ALL_REDUCE_REFERENCES.get(node.name, node.name)]
    known = NETWORK_CONSTANTS[reference.name].all_reduce
    nearest = next((count for count in sorted(known) if count >= size), max(known))
    notes = []
    scale = 1.0
    if reference is not node:
        scale = _bandwidth(node, nearest) / _bandwidth(reference, nearest)
        notes.append(f"all-reduce scaled from {reference.name} by bandwidth")
    if nearest != size:
        notes.append(f"all-reduce among {size} devices by the constants for {nearest}")
    small, large = (replace(constants, bandwidth_gbps=constants.bandwidth_gbps * scale) for constants in known[nearest])
    return small, large, ", ".join(notes)


def _bandwidth(node: NodeSKU, size: int) -> float:
    """Return the bandwidth of the slowest link among `size` devices."""
    if node.interconnect == "pairwise_nvlink" and size > 2:
        return DEVICES[node.device].pcie_bandwidth
    return node.link_bandwidth


def _send_recv_of(replica: ReplicaConfig) -> tuple[SendRecv, str]:
    """Return constants of a transfer to the next stage, and a note on what was not measured."""
    node = replica.node_sku
    spans_nodes = replica.world_size > node.num_devices_per_node
    measured, reference = NETWORK_CONSTANTS.get(node.name), NETWORK_CONSTANTS[SEND_RECV_REFERENCE]
    if measured is not None:
        known = measured.send_recv_between_nodes if spans_nodes else measured.send_recv_in_node
        if known is not None:
            return known, ""
    if spans_nodes:
        assert reference.send_recv_between_nodes is not None
        return reference.send_recv_between_nodes, f"transfers between nodes as between nodes of {SEND_RECV_REFERENCE}"
    assert reference.send_recv_in_node is not None
    scale = node.link_bandwidth / NODES[SEND_RECV_REFERENCE].link_bandwidth
    scaled = replace(reference.send_recv_in_node, bandwidth_gbps=reference.send_recv_in_node.bandwidth_gbps * scale)
    return scaled, f"transfers between stages scaled from {SEND_RECV_REFERENCE} by bandwidth"
