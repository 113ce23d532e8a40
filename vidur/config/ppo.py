"""Configuration of the learned router and of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import setting
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.errors import InputError

MODES = ("evaluate", "train")


@dataclass(frozen=True)
class PPOGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    """Mode `evaluate` routes with a trained policy; `train` continues training it during the simulation.

    Settings from `reward` on apply to training only. Sources: PPO, Schulman et al., 2017; GAE, Schulman et al., 2016.
    """

    type_name: ClassVar[str] = "ppo"
    description: ClassVar[str] = "a learned policy: data/policies/default, or one of your own; trains too"

    checkpoint: str | None = setting(
        None, help="the policy: a file, or a name in data/policies; default if none; new: train from scratch"
    )
    mode: str = setting("evaluate", help="evaluate: route; train: learn while the simulation runs", choices=MODES)
    beta: float = setting(
        10.0, help="weight of tail TTFT relative to mean E2E, trained on 2 to 44; an input of the policy", minimum=0
    )
    sample: bool = setting(False, help="sample from the policy's probabilities, else take the likeliest replica")
    max_queue_requests: int | None = setting(
        None, help="requests awaiting a first token that the policy sees per replica; the checkpoint's if none",
        minimum=0, maximum=64,
    )  # fmt: skip
    output: str = setting("ppo_policy.safetensors", help="file for the trained policy (mode train)")
    reward: str = setting("marginal_cost", help="the reward: a name in data/rewards, or a YAML file")
    rollout_decisions: int | None = setting(
        None, help="decisions per simulation and update; if none, 128 with many simulations, 1024 with one", minimum=2
    )
    discount: float = setting(0.99, help="gamma, per decision", minimum=0, maximum=1)
    gae_lambda: float = setting(0.95, help="lambda of generalised advantage estimation", minimum=0, maximum=1)
    learning_rate: float = setting(3e-4, help="Adam's initial learning rate", above=0)
    final_learning_rate: float = setting(3e-5, help="final learning rate; linear in between", minimum=0)
    epochs: int = setting(3, help="passes over a rollout", minimum=1)
    minibatch_decisions: int = setting(2048, help="decisions per gradient step", minimum=2)
    clip_range: float = setting(0.2, help="clip range of the probability ratio", above=0)
    value_weight: float = setting(0.5, help="weight of the critic's loss", minimum=0)
    entropy_weight: float = setting(0.002, help="initial weight of the entropy bonus", minimum=0)
    final_entropy_weight: float = setting(0.0005, help="final weight of it; linear in between", minimum=0)
    kl_weight: float = setting(0.3, help="initial weight of the KL divergence from the reference policy", minimum=0)
    final_kl_weight: float = setting(0.1, help="weight of the KL divergence after its decay", minimum=0)
    kl_decay_fraction: float = setting(0.6, help="fraction of training in which kl_weight decays", above=0, maximum=1)
    target_kl: float = setting(0.03, help="KL divergence at which an update stops its passes early", above=0)
    max_gradient_norm: float = setting(0.5, help="gradients are clipped to this norm", above=0)
    hidden_1: int = setting(32, help="units of the first hidden layer of a new policy", minimum=1, maximum=1024)
    hidden_2: int = setting(16, help="units of the second hidden layer of a new policy", minimum=1, maximum=1024)

    def check(self) -> None:
        if self.mode == "train" and not self.output:
            raise InputError(f"{self.flag('output')} is needed in training: a file for the policy")
