"""The learned router, a package on top of this one: the one place that imports `rl`, and only when it is asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vidur.config import PPOGlobalSchedulerConfig
from vidur.extras import missing_package
from vidur.scheduler.global_scheduler import GlobalScheduler, RouterContext


def make_learned_router(config: PPOGlobalSchedulerConfig, context: RouterContext) -> GlobalScheduler:
    """The router that `config` describes, or the one that learns while a simulation runs.

    Raises InputError for a checkpoint that cannot be used, and for learning without torch.
    """
    if config.mode == "train":
        if find_spec("torch") is None:
            raise missing_package("torch", f"{config.flag('mode')} train")
        from rl.train.online import OnlineTrainer

        return OnlineTrainer(config, context)
    # Numba has to know the router's kernels before a simulation compiles them.
    import rl.router.compiled  # noqa: F401
    from rl.router.scheduler import ppo_maker

    return ppo_maker(config)(context)


def checkpoint_path(checkpoint: str | None) -> Path:
    """The file of the policy that --ppo_global_scheduler_config_checkpoint names.

    Raises InputError where there is none that can be used.
    """
    from rl.router.checkpoint import Checkpoint, policy_path

    path = policy_path(checkpoint)
    Checkpoint.load(path)
    return path
