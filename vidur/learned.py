"""Load the learned router: the only module that imports the package `rl`, and only on use."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vidur.config import PPOGlobalSchedulerConfig
from vidur.extras import missing_package
from vidur.scheduler.routers import GlobalScheduler, RouterContext


def make_learned_router(config: PPOGlobalSchedulerConfig, context: RouterContext) -> GlobalScheduler:
    """Return the router of `config`, which in mode `train` learns during the simulation.

    Raises InputError for an unusable checkpoint, and for training without torch.
    """
    if config.mode == "train":
        if find_spec("torch") is None:
            raise missing_package("torch", f"{config.flag('mode')} train")
        from rl.train.online import OnlineTrainer

        return OnlineTrainer(config, context)
    # Register the router's kernels with Numba before a simulation compiles them.
    import rl.router.compiled  # noqa: F401
    from rl.router.scheduler import ppo_maker

    return ppo_maker(config)(context)


def beta_warning(config: PPOGlobalSchedulerConfig) -> str | None:
    """Return a warning if the policy was not trained on this beta. Raises InputError for an unusable checkpoint."""
    from rl.router.checkpoint import Checkpoint, policy_path

    if config.mode == "train" or config.checkpoint == "new":
        return None
    known = Checkpoint.load(policy_path(config.checkpoint)).beta_range
    if known is None or known[0] <= config.beta <= known[1]:
        return None
    return f"{config.flag('beta')} {config.beta:g} is outside {known[0]:g} to {known[1]:g}, which the policy learned"


def checkpoint_path(checkpoint: str | None) -> Path:
    """Return the file of the policy that --ppo_global_scheduler_config_checkpoint names.

    Raises InputError if it does not exist or is unusable.
    """
    from rl.router.checkpoint import Checkpoint, policy_path

    path = policy_path(checkpoint)
    Checkpoint.load(path)
    return path
