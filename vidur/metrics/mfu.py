"""Compute model FLOP utilization as upstream does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.config import ReplicaConfig
from vidur.memory_planner import parameters_per_device


def model_flop_utilization(
    replica: ReplicaConfig, num_tokens: NDArray[np.int64], token_pairs: NDArray[np.float64], seconds: float
) -> NDArray[np.float64]:
    """Return the fraction of peak FLOP/s used over `seconds`, from tokens and attention (query, KV) token pairs.

    A device computes 2 * tokens * parameters + 4 * layers * query heads * head size * pairs operations, with a peak of
    fp16_tflops * 2**40 per second. Aggregates the percentages per batch stage of microsoft/vidur,
    utils/mfu_calculator.py; all devices and stages of a replica have the same fraction.
    """
    q_heads = replica.model.num_q_heads // replica.tensor_parallel_size
    attention = 4.0 * replica.layers_per_stage * q_heads * replica.model.head_dim * token_pairs
    operations = 2.0 * parameters_per_device(replica) * num_tokens + attention
    peak = replica.device_sku.fp16_tflops * 2.0**40
    return operations / (peak * (seconds or np.nan))
