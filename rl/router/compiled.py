"""Register the policy's kernels with Numba: import this before a simulation compiles a learned router.

Other kernels call the large ones by handle, so that each is compiled once and not into every caller.
"""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

import vidur.scheduler.compiled  # noqa: F401, it registers what routers share
from rl.router import features, scores
from vidur.engine.callback import Callback
from vidur.engine.compile import COMPILED, INNER

if COMPILED:
    for helper in (
        features.derive_facts, features.mean_prompt_of_all, features.ttft_weight,
        features.encode_rows, features.encode_interactions, features.encode_context, features.encode_state,
        scores.pool, scores.score, scores.sample,
        scores.log_probability,
    ):  # fmt: skip
        register_jitable(**INNER)(helper)

_ROW, _TABLE = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")

# The arguments of rl.router.features.encode_state and of rl.router.scores.score.
encode_callback = Callback(
    types.void, _TABLE, _TABLE, _TABLE, _ROW, _ROW, types.float64, types.int64, _TABLE, _ROW
)  # fmt: skip
score_callback = Callback(types.void, _TABLE, _ROW, types.Array(types.int64, 1, "C"), _ROW, _ROW)
