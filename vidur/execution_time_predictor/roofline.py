"""The `roofline` predictor: closed forms of each operation, with constants fitted on A100 and H100.

An iteration has the operations that aiconfigurator-core 0.12.0 counts for a Llama model: matrix products, attention,
two norms fused with the residual addition, the activation, all-reduces, and once per iteration the embedding (by
tokens) and the head (by requests: only each last token needs logits). Rotary embedding and the KV-cache write are part
of attention there, so they are 0 here; docs/fidelity.md quantifies the effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidur.config import RooflineExecutionTimePredictorConfig
from vidur.config.device_sku import DEVICES, DeviceSKU
from vidur.config.replica import ReplicaConfig
from vidur.execution_time_predictor.grid import TableGrid
from vidur.execution_time_predictor.interconnect import Interconnect
from vidur.execution_time_predictor.norm import p_norm
from vidur.execution_time_predictor.registry import predictors
from vidur.execution_time_predictor.roofline_constants import (
    DEVICE_CONSTANTS,
    ELEMENTWISE_BANDWIDTH_FRACTION,
    ELEMENTWISE_LAUNCH_US,
    DeviceConstants,
)
from vidur.execution_time_predictor.shape import BYTES_PER_VALUE, DeviceShape
from vidur.execution_time_predictor.tables import POST_NORM_OP, ExecutionTimeTables, FloatArray, TableBounds

# Devices without constants take those of the nearest architecture.
DEVICE_REFERENCES = {"a40": "a100", "l40s": "a100", "h200": "h100", "b200": "h100"}
TILE_TOKENS = 128


@dataclass(frozen=True)
class Roofline:
    """Times in microseconds on one device: its own peaks, and the reference device's fractions of peak."""

    device: DeviceSKU
    constants: DeviceConstants

    @staticmethod
    def of(device: DeviceSKU) -> Roofline:
        return Roofline(device, DEVICE_CONSTANTS[DEVICE_REFERENCES.get(device.name, device.name)])

    @property
    def flop_per_us(self) -> float:
        return self.device.peak_flops * 1e-6

    @property
    def bytes_per_us(self) -> float:
        return self.device.memory_bandwidth * 1e-6

    def gemm(self, rows: FloatArray, inner: int, columns: int) -> FloatArray:
        """Return the time of a product of [rows, inner] and [inner, columns]."""
        c = self.constants.gemm
        flop = 2.0 * rows * inner * columns
        num_bytes = BYTES_PER_VALUE * (rows * inner + float(inner * columns) + rows * columns)
        return c.launch_us + p_norm(
            c.q, flop / (c.compute * self.flop_per_us), num_bytes / (c.memory * self.bytes_per_us)
        )

    def prefill(self, kv: FloatArray, chunk: FloatArray, shape: DeviceShape) -> FloatArray:
        """Return the time of attention of `chunk` new tokens on themselves and on `kv` earlier ones."""
        c = self.constants.prefill
        heads, kv_heads, dim = shape.num_q_heads, shape.num_kv_heads, shape.head_dim
        flop = 4.0 * heads * dim * (chunk * kv + chunk * (chunk + 1.0) / 2.0)
        ramp = 4.0 * TILE_TOKENS * dim * chunk
        num_bytes = BYTES_PER_VALUE * dim * (2.0 * chunk * heads + 2.0 * (kv + chunk) * kv_heads)
        return c.launch_us + p_norm(
            c.q,
            flop / (c.compute * self.flop_per_us),
            ramp / (c.ramp * self.flop_per_us / self.device.num_sms),
            num_bytes / (c.memory * self.bytes_per_us),
        )

    def decode(self, batch: FloatArray, kv: FloatArray, shape: DeviceShape) -> FloatArray:
        """Return the time of attention of one new token for each of `batch` requests of mean KV length `kv`."""
        c = self.constants.decode if shape.is_grouped_query else self.constants.decode_mha
        kv_heads, dim = shape.num_kv_heads, shape.head_dim
        num_bytes = batch * BYTES_PER_VALUE * dim * (2.0 * kv * kv_heads + 2.0 * shape.num_q_heads)
        tiles = c.tile_us * batch * kv_heads / self.device.num_sms
        return c.launch_us + p_norm(c.q, num_bytes / (c.memory * self.bytes_per_us), tiles, c.token_us * kv)

    def elementwise(self, num_bytes: FloatArray) -> FloatArray:
        return ELEMENTWISE_LAUNCH_US + num_bytes / (ELEMENTWISE_BANDWIDTH_FRACTION * self.bytes_per_us)

    def embedding(self, num_bytes: FloatArray) -> FloatArray:
        c = self.constants.embedding
        return p_norm(c.q, np.full_like(num_bytes, c.launch_us), num_bytes / (c.memory * self.bytes_per_us))


@predictors.register(RooflineExecutionTimePredictorConfig.type_name)
def build_roofline(
    config: RooflineExecutionTimePredictorConfig,
    replica: ReplicaConfig,
    bounds: TableBounds,
    cache_dir: Path | None,
    block_size: int | None,
) -> ExecutionTimeTables:
    """Raises InputError if tensor parallelism spans nodes."""
    grid = TableGrid.of(bounds, config.kv_cache_prediction_granularity)
    roofline, shape = Roofline.of(replica.device_sku), DeviceShape.of(replica)
    network = Interconnect.of(replica)
    linear = _linear(roofline, shape, network, replica, grid.tokens)
    prefill = roofline.prefill(grid.kv_of_prefill[:, None], grid.chunks[None, :], shape)
    prefill[:, 0] = 0.0
    decode = roofline.decode(grid.batch_sizes[:, None], grid.kv_of_decode[None, :], shape)
    decode[0] = 0.0
    head = roofline.gemm(grid.batch_sizes, shape.embedding_dim, shape.vocab_size) / replica.num_pipeline_stages
    head[0] = 0.0
    return ExecutionTimeTables(
        linear={op: _milliseconds(times) for op, times in linear.items()},
        attn_prefill=prefill * 1e-3,
        attn_decode=decode * 1e-3,
        kv_granularity=grid.kv_granularity,
        chunk_granularity=grid.chunk_granularity,
        token_rounding=1,
        cpu={"head": head * 1e-3},
        source=", ".join(note for note in (_source(replica.device), network.note, grid.note) if note),
    )


def _linear(
    roofline: Roofline, shape: DeviceShape, network: Interconnect, replica: ReplicaConfig, tokens: FloatArray
) -> dict[str, FloatArray]:
    """Return microseconds per layer by tokens, with the iteration's embedding spread over the layers."""
    dim, mlp, up = shape.embedding_dim, shape.mlp_hidden_dim, shape.mlp_up_width
    # A norm fused with the residual addition reads and writes both.
    norm = roofline.elementwise(BYTES_PER_VALUE * 4.0 * dim * tokens)
    embedding = roofline.embedding(BYTES_PER_VALUE * 2.0 * dim * tokens)
    message = BYTES_PER_VALUE * dim * tokens
    nothing = np.zeros_like(tokens)
    linear = {
        "attn_pre_proj": roofline.gemm(tokens, dim, shape.qkv_width),
        "attn_post_proj": roofline.gemm(tokens, shape.attention_width, dim),
        "mlp_up_proj": roofline.gemm(tokens, dim, up),
        "mlp_down_proj": roofline.gemm(tokens, mlp, dim),
        "mlp_act": roofline.elementwise(BYTES_PER_VALUE * float(up + mlp) * tokens),
        "attn_rope": nothing,
        "attn_kv_cache_save": nothing,
        "input_layernorm": norm,
        "add": nothing,
    }
    if replica.model.post_attn_norm:
        linear[POST_NORM_OP] = norm
    if replica.tensor_parallel_size > 1:
        linear["all_reduce"] = network.all_reduce(message)
        embedding = embedding + linear["all_reduce"]
    if replica.num_pipeline_stages > 1:
        linear["send_recv"] = network.send_recv(message)
    linear["embedding"] = embedding / replica.model.num_layers
    return linear


def _milliseconds(microseconds: FloatArray) -> FloatArray:
    times = microseconds * 1e-3
    times[0] = 0.0
    return times


def _source(device: str) -> str:
    if device not in DEVICE_REFERENCES:
        return f"roofline fitted on {device}"
    reference = DEVICES[DEVICE_REFERENCES[device]].name
    return f"roofline of {reference} scaled to {device} by peak FLOP/s, memory bandwidth and SMs"
