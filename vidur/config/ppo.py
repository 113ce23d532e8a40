"""The learned router: which policy, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import setting
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.errors import InputError

MODES = ("evaluate", "train")


@dataclass(frozen=True)
class PPOGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    """`evaluate` routes with a trained policy; `train` goes on training it while the simulation runs.

    The settings from `reward` on matter in training only. Sources: PPO, Schulman et al., 2017; GAE, Schulman et al.,
    2016.
    """

    type_name: ClassVar[str] = "ppo"
    description: ClassVar[str] = "a learned policy: data/policies/default, or one of your own; trains too"

    checkpoint: str | None = setting(
        None, help="the policy: a file, or a name in data/policies; the shipped one if none; new: train from nothing"
    )
    mode: str = setting("evaluate", help="evaluate: route; train: learn while the simulation runs", choices=MODES)
    beta: float = setting(
        10.0, help="weight of the tail of TTFT beside mean E2E, 2 to 44; an input of the policy", minimum=0
    )
    sample: bool = setting(False, help="draw the replica by the policy's probabilities; else the best one")
    max_queue_requests: int | None = setting(
        None, help="requests without a first token that the policy sees of each replica; the checkpoint's if none",
        minimum=0, maximum=64,
    )  # fmt: skip
    output: str = setting("ppo_policy.safetensors", help="of train: where the policy is saved")
    reward: str = setting("marginal_cost", help="what is learned: a name in data/rewards, or a YAML file")
    rollout_decisions: int | None = setting(
        None, help="decisions of a simulation between two updates; if none 128 of many, 1024 of one", minimum=2
    )
    discount: float = setting(0.99, help="gamma, for each decision", minimum=0, maximum=1)
    gae_lambda: float = setting(0.95, help="lambda of generalised advantage estimation", minimum=0, maximum=1)
    learning_rate: float = setting(3e-4, help="of Adam, at the start", above=0)
    final_learning_rate: float = setting(3e-5, help="at the end; linear in between", minimum=0)
    epochs: int = setting(3, help="passes over a rollout", minimum=1)
    minibatch_decisions: int = setting(2048, help="decisions of one gradient step", minimum=2)
    clip_range: float = setting(0.2, help="of the probability ratio", above=0)
    value_weight: float = setting(0.5, help="of the critic's loss", minimum=0)
    entropy_weight: float = setting(0.002, help="of the entropy bonus, at the start", minimum=0)
    final_entropy_weight: float = setting(0.0005, help="at the end; linear in between", minimum=0)
    kl_weight: float = setting(0.3, help="of the KL divergence from the reference policy, at the start", minimum=0)
    final_kl_weight: float = setting(0.1, help="at the end of its decay", minimum=0)
    kl_decay_fraction: float = setting(0.6, help="part of the training over which it decays", above=0, maximum=1)
    target_kl: float = setting(0.03, help="an update's KL divergence that ends its passes early", above=0)
    max_gradient_norm: float = setting(0.5, help="gradients are cut to it", above=0)
    hidden_1: int = setting(32, help="units of the first hidden layer of a new policy", minimum=1, maximum=1024)
    hidden_2: int = setting(16, help="units of the second", minimum=1, maximum=1024)

    def check(self) -> None:
        if self.mode == "train" and not self.output:
            raise InputError(f"{self.flag('output')} is needed to train: a file for the policy")
