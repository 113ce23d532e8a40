"""Register the policy's kernels with Numba: import this before a simulation compiles a learned router."""

from __future__ import annotations

from numba.extending import register_jitable

import vidur.scheduler.compiled  # noqa: F401, it registers what routers share
from rl.router import features, scores
from vidur.engine.compile import COMPILED, INNER

if COMPILED:
    for helper in (
        features.derive_facts, features.mean_prompt_of_all, features.ttft_weight,
        features.encode_rows, features.encode_interactions, features.encode_context, features.encode_state,
        scores.pool, scores.score, scores.sample,
        scores.log_probability,
    ):  # fmt: skip
        register_jitable(**INNER)(helper)
