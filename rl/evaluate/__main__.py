"""python -m rl.evaluate: the learned router beside every heuristic, on the same requests, scenario by scenario."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl.evaluate.config import EvaluateConfig
from vidur.compare.config import RESUMABLE
from vidur.tool import run_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the flags say. Returns the exit status of `run_tool`."""
    return run_tool(
        "rl.evaluate", (EvaluateConfig,), evaluate, argv, description=__doc__ or "", advice=RESUMABLE, forks=True
    )


def evaluate(config: EvaluateConfig) -> None:
    # This brings in numba: after the flags are known to be good.
    from rl.evaluate import evaluation

    evaluation.evaluate(config)


if __name__ == "__main__":
    sys.exit(main())
