"""Makes the kernels known to Numba. Import this before a simulation compiles a learned router."""

from __future__ import annotations

from numba.extending import register_jitable

from rl.kernels import features, scores
from vidur.engine.compile import COMPILED

if COMPILED:
    for helper in (
        features.derive_facts, features.expected_lengths, features.ttft_weight,
        features.encode_replicas, features.encode_context,
        scores.pool, scores.score, scores.sample,
        scores.log_probability,
    ):  # fmt: skip
        register_jitable(helper)
