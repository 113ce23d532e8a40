"""Improve a policy off-line from decision logs: python -m rl.vllm.learn LOG [LOG ...] --output FILE

The new policy minimises doubly robust estimates of the costs of choices, with a penalty on its divergence from the old
one. Its cost is estimated on held-out decisions, and printed before it is written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vidur.config.base import Config, setting
from vidur.config.tool import leading_words, parse_tool
from vidur.errors import InputError
from vidur.tool import run_tool

if TYPE_CHECKING:
    from rl.vllm.learn.experience import Experience
    from rl.vllm.learn.improvement import Learned


@dataclass(frozen=True)
class LearnConfig(Config):
    """The policies, and the hyper-parameters of learning."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "learning"
    help_description: ClassVar[str] = "the policies, and the hyper-parameters of learning"

    checkpoint: str | None = setting(None, help="the policy to improve: a file or a name; by default the shipped one")
    output: str = setting("learned.safetensors", help="file of the new policy")
    force: bool = setting(False, help="write it even if it may not be better")
    beta: float = setting(10.0, help="weight of the tail of TTFT, for logs of schedulers without one", minimum=0)
    sample: bool = setting(False, help="the policy samples by its probabilities; otherwise it takes the best replica")
    seed: int = setting(0, help="seed of all randomness", minimum=0, maximum=2**31)
    model_epochs: int = setting(40, help="epochs of the outcome model", minimum=1)
    policy_epochs: int = setting(40, help="epochs of the policy", minimum=1)
    learning_rate: float = setting(1e-3, help="initial learning rate of Adam, which falls to 0", above=0)
    kl_weight: float = setting(
        0.05, help="weight of the divergence from the old policy, beside standardised costs", minimum=0
    )
    largest_weight: float = setting(20.0, help="bound of importance weights in learning, but not in estimates", above=0)
    minibatch: int = setting(512, help="decisions per gradient step", minimum=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Learn as the flags say and return the exit status: 1 if the policy may not be better and was not written."""
    return run_tool("rl.vllm.learn", _parse, learn_from_logs, argv)


def _parse(argv: Sequence[str] | None) -> tuple[list[str], LearnConfig]:
    logs, flags = leading_words(argv)
    (config,) = parse_tool("python -m rl.vllm.learn LOG [LOG ...]", __doc__ or "", (LearnConfig,), flags)
    if not logs:
        raise InputError("give the files of the decision log, oldest first, before the flags")
    return logs, config


def learn_from_logs(logs: Sequence[str], config: LearnConfig) -> int:
    """Learn, print the estimates, and write the policy. Returns 1 if it may not be better."""
    import torch

    from rl.router.checkpoint import Checkpoint, policy_path
    from rl.vllm.learn.experience import read_experience
    from rl.vllm.learn.improvement import learn

    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(policy_path(config.checkpoint))
    experience = read_experience(logs, checkpoint.max_queue_requests, config.beta)
    learned = learn(checkpoint, experience, config)
    _print(experience, learned)
    if not (learned.is_better or config.force):
        print("Not written, as the policy may not be better: log more decisions, or give --force.")
        return 1
    learned.checkpoint.save(config.output)
    print(f"Policy: {config.output}")
    return 0


def _print(experience: Experience, learned: Learned) -> None:
    from rl.vllm.learn.experience import NOT_FINISHED

    left_out = ", ".join(f"{count:,} {reason}" for reason, count in experience.left_out.items() if count)
    print(f"{len(experience):,} decisions{f' (left out: {left_out})' if left_out else ''}, two in five held out.")
    if experience.left_out[NOT_FINISHED]:
        print("Requests that failed, or whose clients left, are ignored, even if a choice made them fail.")
    print("Old and new policy on the held-out decisions, with a 95 % interval of the change:")
    for name, estimate in learned.estimates.items():
        unit = "  " if name == "cost" else " s"
        print(
            f"  {name:4}  {estimate.old:8.3f}{unit} -> {estimate.new:8.3f}{unit}  {100 * estimate.change:+6.1f} %  "
            f"[{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}] %"
        )
    effective = learned.estimates["cost"].effective
    print(f"Effective sample size: {effective:,.0f} decisions of the new policy.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
