"""Constants of the roofline predictor. Microseconds, bytes, FLOP; bandwidths in GB/s; the rest are fractions of peak.

Sources, as each fit's comment says: `aic` is aiconfigurator-core 0.12.0 (Apache-2.0), its measured bf16 tables of
vLLM 0.24.0 on H100-SXM and vLLM 0.14.0 on A100-SXM; `vidur` is microsoft/vidur's published fp16 profiles (MIT).
The percentages are the fit's median and 95th percentile absolute error.
"""

from __future__ import annotations

from dataclasses import dataclass

# Fused element-wise kernels: a launch, and bytes at a fraction of the memory bandwidth. Source: `aic`,
# systems/{h100,a100}_sxm.yaml: mem_empirical_constant_latency and the 0.8 of its element-wise operations.
ELEMENTWISE_LAUNCH_US = 3.0
ELEMENTWISE_BANDWIDTH_FRACTION = 0.8
# All-reduces of at most this many bytes run vLLM's own one- or two-shot kernels, larger ones NCCL.
CUSTOM_ALL_REDUCE_MAX_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Gemm:
    """launch_us + norm(q; FLOP / (compute * peak), bytes / (memory * bandwidth))."""

    launch_us: float
    compute: float
    memory: float
    q: float


@dataclass(frozen=True)
class Prefill:
    """As `Gemm`, with a third term: the longest chunk on one SM at a fraction `ramp` of its peak."""

    launch_us: float
    compute: float
    ramp: float
    memory: float
    q: float


@dataclass(frozen=True)
class Decode:
    """launch_us + norm(q; bytes / (memory * bandwidth), tile_us * requests * KV heads / SMs, token_us * KV length)."""

    launch_us: float
    memory: float
    tile_us: float
    q: float
    token_us: float = 0.0


@dataclass(frozen=True)
class Embedding:
    """norm(q; launch_us, bytes / (memory * bandwidth))."""

    launch_us: float
    memory: float
    q: float


@dataclass(frozen=True)
class AllReduce:
    """launch_us + norm(q; floor_us, 2 (n - 1) / n * bytes / bandwidth_gbps)."""

    launch_us: float
    floor_us: float
    bandwidth_gbps: float
    q: float


@dataclass(frozen=True)
class SendRecv:
    """launch_us + bytes / bandwidth_gbps."""

    launch_us: float
    bandwidth_gbps: float


@dataclass(frozen=True)
class DeviceConstants:
    """The constants fitted on one device. decode_mha: for models with as many KV heads as query heads."""

    gemm: Gemm
    prefill: Prefill
    decode: Decode
    decode_mha: Decode
    embedding: Embedding


@dataclass(frozen=True)
class NetworkConstants:
    """all_reduce[n]: for small and for larger messages among n devices of one node. None: not measured."""

    all_reduce: dict[int, tuple[AllReduce, AllReduce]]
    send_recv_in_node: SendRecv | None = None
    send_recv_between_nodes: SendRecv | None = None


DEVICE_CONSTANTS = {
    "a100": DeviceConstants(
        gemm=Gemm(5.7852, 0.84389, 0.76337, 1.6178),  # aic: 6.5 %, 22.0 %
        prefill=Prefill(10.558, 0.58323, 1.3391, 0.37521, 1.0747),  # aic: 4.2 %, 26.7 %
        decode=Decode(18.132, 0.71975, 3.6818, 2.377),  # aic: 5.6 %, 19.5 %
        decode_mha=Decode(9.0809, 0.72489, 3.6994, 9.9995, 0.023042),  # aic: 2.7 %, 14.6 %
        embedding=Embedding(4.5743, 0.1501, 1.7481),  # vidur: 4.1 %, 11.7 %
    ),
    "h100": DeviceConstants(
        gemm=Gemm(3.7317, 0.81044, 0.87088, 3.0668),  # aic: 5.5 %, 16.5 %
        prefill=Prefill(12.607, 0.67953, 2.318, 0.39645, 1.0735),  # aic: 5.1 %, 20.5 %
        decode=Decode(12.129, 0.88776, 3.1701, 1.2764),  # aic: 4.8 %, 12.7 %
        decode_mha=Decode(12.34, 0.89894, 3.0855, 1.3636),  # aic: 5.0 %, 12.7 %
        embedding=Embedding(3.3305, 0.18094, 1.3343),  # vidur: 3.8 %, 10.2 %
    ),
}

NETWORK_CONSTANTS = {
    "a100_dgx": NetworkConstants(
        all_reduce={
            2: (
                AllReduce(4.036, 1.0169, 199.9, 1.0),  # aic: 3.4 %, 4.0 %
                AllReduce(45.542, 0.0, 195.49, 1.0),  # aic: 1.6 %, 3.6 %
            ),
            4: (
                AllReduce(4.25, 1.2575, 135.41, 1.0),  # aic: 6.6 %, 23.1 %
                AllReduce(62.199, 0.0, 217.7, 1.0),  # aic: 1.8 %, 2.8 %
            ),
            8: (
                AllReduce(4.5578, 1.8771, 135.3, 1.0),  # aic: 13.8 %, 46.7 %
                AllReduce(71.224, 0.0, 221.44, 1.0),  # aic: 3.1 %, 7.3 %
            ),
        },
        send_recv_in_node=SendRecv(13.565, 288.57),  # vidur: 9.3 %, 17.0 %
        send_recv_between_nodes=SendRecv(29.138, 7.7721),  # vidur: 0.8 %, 4.3 %
    ),
    "a100_pairwise_nvlink": NetworkConstants(
        all_reduce={
            2: (AllReduce(31.071, 29.813, 192.01, 9.192),) * 2,  # vidur: 1.5 %, 6.8 %
            4: (AllReduce(58.711, 0.025907, 23.618, 1.0),) * 2,  # vidur: 0.6 %, 3.9 %
        },
        send_recv_in_node=SendRecv(7.7948, 359.59),  # vidur: 3.9 %, 16.9 %
        send_recv_between_nodes=SendRecv(3.0237, 2.4595),  # vidur: 17.3 %, 211.4 %
    ),
    "h100_dgx": NetworkConstants(
        all_reduce={
            2: (
                AllReduce(2.7938, 1.4823, 260.68, 1.0019),  # aic: 0.6 %, 2.7 %
                AllReduce(22.296, 0.0, 301.95, 1.0),  # aic: 8.3 %, 18.3 %
            ),
            4: (
                AllReduce(3.934, 0.77799, 214.1, 1.0),  # aic: 3.2 %, 16.8 %
                AllReduce(20.117, 0.0, 338.64, 1.0),  # aic: 4.2 %, 10.1 %
            ),
            8: (
                AllReduce(5.1673, 0.041549, 222.28, 1.0),  # aic: 11.5 %, 26.6 %
                AllReduce(20.199, 0.0, 425.98, 1.0),  # aic: 6.5 %, 13.0 %
            ),
        },
        send_recv_in_node=SendRecv(7.7, 358.82),  # vidur: 1.6 %, 9.2 %
        send_recv_between_nodes=SendRecv(19.7, 36.027),  # vidur: 2.6 %, 12.8 %
    ),
    "h100_pairwise_nvlink": NetworkConstants(
        all_reduce={
            2: (AllReduce(6.2027, 14.993, 191.46, 1.3058),) * 2,  # vidur: 1.2 %, 26.7 %
            4: (AllReduce(32.18, 0.018701, 47.474, 19.999),) * 2,  # vidur: 3.2 %, 22.3 %
        },
        send_recv_in_node=SendRecv(7.7948, 359.59),  # vidur: 3.9 %, 16.9 %
        send_recv_between_nodes=SendRecv(3.0237, 2.4595),  # vidur: 17.3 %, 211.4 %
    ),
    # `tables`: fitted here to the all-reduce tables of aiconfigurator-core 0.12.0, by least squares of the relative
    # error at 60 message sizes, 8 KiB to 128 MiB.
    "h200_dgx": NetworkConstants(
        all_reduce={
            2: (
                AllReduce(4.424, 0.0, 264.97, 1.0),  # tables: 1.5 %, 3.8 %
                AllReduce(6.487, 0.0, 252.72, 1.0),  # tables: 4.5 %, 12.2 %
            ),
            4: (
                AllReduce(5.017, 0.0, 227.25, 1.0),  # tables: 4.9 %, 15.5 %
                AllReduce(11.42, 0.0, 317.42, 1.0),  # tables: 3.0 %, 5.4 %
            ),
            8: (
                AllReduce(6.248, 0.0, 272.69, 1.0),  # tables: 11.4 %, 21.8 %
                AllReduce(10.3, 0.0, 388.55, 1.0),  # tables: 2.2 %, 6.6 %
            ),
        },
    ),
    "b200_dgx": NetworkConstants(
        all_reduce={
            2: (
                AllReduce(6.408, 0.0, 139.29, 1.0),  # tables: 6.0 %, 10.3 %
                AllReduce(29.25, 0.0, 545.24, 1.0),  # tables: 3.1 %, 9.3 %
            ),
            4: (
                AllReduce(7.348, 0.0, 187.8, 1.0),  # tables: 6.1 %, 30.8 %
                AllReduce(20.94, 0.0, 572.35, 1.0),  # tables: 4.9 %, 7.2 %
            ),
            8: (
                AllReduce(9.376, 0.0, 288.26, 1.0),  # tables: 17.0 %, 56.0 %
                AllReduce(13.1, 0.0, 570.92, 1.0),  # tables: 1.8 %, 3.9 %
            ),
        },
    ),
    "l40s_pcie": NetworkConstants(
        all_reduce={
            2: (
                AllReduce(5.485, 0.0, 19.512, 1.0),  # tables: 3.3 %, 9.8 %
                AllReduce(9.367, 0.0, 19.036, 1.0),  # tables: 0.2 %, 0.6 %
            ),
            4: (
                AllReduce(12.0, 0.0, 3.9754, 1.0),  # tables: 3.6 %, 8.6 %
                AllReduce(0.0, 0.0, 3.7421, 1.0),  # tables: 1.1 %, 1.7 %
            ),
            8: (
                AllReduce(19.71, 0.0, 2.3626, 1.0),  # tables: 7.1 %, 23.8 %
                AllReduce(409.0, 0.0, 1.9503, 1.0),  # tables: 1.2 %, 2.7 %
            ),
        },
    ),
}
