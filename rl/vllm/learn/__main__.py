"""Improve a policy on decision logs, off-line: python -m rl.vllm.learn LOG [LOG ...] --output FILE

The new policy lowers the cost of decisions, as doubly robust estimates of the costs of all choices have it, and pays
for leaving the old one. What it would have cost is estimated on decisions that it was not made on, and told before it
is written.
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
    """How a policy learns from logs."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "learning"
    help_description: ClassVar[str] = "from which policy to which, and how far from it"

    checkpoint: str | None = setting(None, help="the policy to begin with: a file or a name; the shipped one if none")
    output: str = setting("learned.safetensors", help="where the new policy goes")
    force: bool = setting(False, help="write it even if it may be no better")
    beta: float = setting(10.0, help="weight of the tail of TTFT, for logs of schedulers that have none", minimum=0)
    sample: bool = setting(False, help="the policy draws by its probabilities; else it takes the best replica")
    seed: int = setting(0, help="of all randomness", minimum=0, maximum=2**31)
    model_epochs: int = setting(40, help="passes of the model of outcomes", minimum=1)
    policy_epochs: int = setting(40, help="passes of the policy", minimum=1)
    learning_rate: float = setting(1e-3, help="of Adam, at the start; 0 at the end", above=0)
    kl_weight: float = setting(
        0.05, help="of the divergence from the old policy, beside costs in deviations", minimum=0
    )
    largest_weight: float = setting(
        20.0, help="importance weights are cut to it in learning, not in estimates", above=0
    )
    minibatch: int = setting(512, help="decisions of one gradient step", minimum=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 where the policy may be no better and was not written, else as `run_tool`."""
    return run_tool("rl.vllm.learn", _parse, learn_from_logs, argv)


def _parse(argv: Sequence[str] | None) -> tuple[list[str], LearnConfig]:
    logs, flags = leading_words(argv)
    (config,) = parse_tool("python -m rl.vllm.learn LOG [LOG ...]", __doc__ or "", (LearnConfig,), flags)
    if not logs:
        raise InputError("give the files of the decision log before the flags, the oldest first")
    return logs, config


def learn_from_logs(logs: Sequence[str], config: LearnConfig) -> int:
    """Learn, say what the policy would have cost, and write it. Returns 1 where it may be no better."""
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
        print("Not written: the policy may be no better. More decisions would tell, or --force.")
        return 1
    learned.checkpoint.save(config.output)
    print(f"Policy: {config.output}")
    return 0


def _print(experience: Experience, learned: Learned) -> None:
    from rl.vllm.learn.experience import NOT_FINISHED

    left_out = ", ".join(f"{count:,} {reason}" for reason, count in experience.left_out.items() if count)
    print(f"{len(experience):,} decisions{f' (left out: {left_out})' if left_out else ''}, two in five held out.")
    if experience.left_out[NOT_FINISHED]:
        print(
            "Requests that failed, or whose clients left, count for nothing, nor does the choice that made them fail."
        )
    print("On these, the old policy and the new, with a 95 % interval of the change:")
    for name, estimate in learned.estimates.items():
        unit = "  " if name == "cost" else " s"
        print(
            f"  {name:4}  {estimate.old:8.3f}{unit} -> {estimate.new:8.3f}{unit}  {100 * estimate.change:+6.1f} %  "
            f"[{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}] %"
        )
    effective = learned.estimates["cost"].effective
    print(f"The estimate is worth that of {effective:,.0f} decisions of the new policy's own.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
