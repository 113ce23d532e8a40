"""The learned router, a package on top of this one: the one place that imports `rl`, and only when it is asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vidur.config import PPOGlobalSchedulerConfig
from vidur.extras import missing_package
from vidur.scheduler.routers import GlobalScheduler, RouterContext


def make_learned_router(config: PPOGlobalSchedulerConfig, context: RouterContext) -> GlobalScheduler:
    """Return the router that `config` describes, or the one that learns while a simulation runs.

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


def beta_warning(config: PPOGlobalSchedulerConfig) -> str | None:
    """What to say of a beta that the policy was not trained on. Raises InputError for an unusable checkpoint."""
    from rl.router.checkpoint import Checkpoint, policy_path

    if config.mode == "train":
        return None
    known = Checkpoint.load(policy_path(config.checkpoint)).beta_range
    if known is None or known[0] <= config.beta <= known[1]:
        return None
    return f"{config.flag('beta')} {config.beta:g} is outside of {known[0]:g} to {known[1]:g}, which the policy knows"


def checkpoint_path(checkpoint: str | None) -> Path:
    """Return the file of the policy that --ppo_global_scheduler_config_checkpoint names.

    Raises InputError where there is none that can be used.
    """
    from rl.router.checkpoint import Checkpoint, policy_path

    path = policy_path(checkpoint)
    Checkpoint.load(path)
    return path
