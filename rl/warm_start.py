"""python -m rl.warm_start: clone schedulers from demonstrations, then learn the marginal costs of placements."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl.train.config import WarmStartConfig, WarmStartRunConfig
from vidur.tool import run_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say and return the exit status."""
    return run_tool("rl.warm_start", (WarmStartRunConfig, WarmStartConfig), warm_start, argv, description=__doc__ or "")


def warm_start(run: WarmStartRunConfig, warm: WarmStartConfig) -> None:
    # Import numba and torch only after the flags are checked.
    from rl.train.warm_start import run_warm_start

    run_warm_start(run, warm)


if __name__ == "__main__":
    sys.exit(main())
