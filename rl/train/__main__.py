"""python -m rl.train: train a policy by a warm start, then PPO over many simulations at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rl.train.config import NOT_OF_TRAINING, SearchConfig, TrainConfig, WarmStartConfig
from vidur.config import PPOGlobalSchedulerConfig
from vidur.config.tool import parse_tool
from vidur.tool import prog, run_tool

_CLASSES = (TrainConfig, SearchConfig, WarmStartConfig, PPOGlobalSchedulerConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say and return the exit status: 1 if the loss is not finite."""
    return run_tool(
        "rl.train",
        lambda words: parse_tool(prog("rl.train"), __doc__ or "", _CLASSES, words, NOT_OF_TRAINING),
        train,
        argv,
    )


def train(config: TrainConfig, search: SearchConfig, warm: WarmStartConfig, ppo: PPOGlobalSchedulerConfig) -> int:
    # Import numba and torch only after the flags are checked.
    from rl.train.run import TrainingRun

    run = TrainingRun(config, search, warm, ppo)
    try:
        return run.run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.next_step) from None


if __name__ == "__main__":
    sys.exit(main())
