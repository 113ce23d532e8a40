"""python -m rl.evaluate: compare the learned router with every heuristic on the same requests in each scenario."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl.evaluate.config import EvaluateConfig
from vidur.compare.config import RESUMABLE
from vidur.tool import run_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the flags say and return the exit status."""
    return run_tool(
        "rl.evaluate", (EvaluateConfig,), evaluate, argv, description=__doc__ or "", advice=RESUMABLE, forks=True
    )


def evaluate(config: EvaluateConfig) -> None:
    # Import numba only after the flags are checked.
    from rl.evaluate import evaluation

    evaluation.evaluate(config)


if __name__ == "__main__":
    sys.exit(main())
