"""The flags of `python -m rl.train` and `python -m rl.warm_start`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rl.router.encoder import DEFAULT_QUEUE_REQUESTS
from vidur.config.base import Config, setting
from vidur.errors import InputError, unknown_name

# Settings of the router that training ignores: they say how a finished policy is used.
NOT_OF_TRAINING = ("checkpoint", "mode", "sample", "output")


@dataclass(frozen=True)
class TrainConfig(Config):
    """A training run."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "training run"
    help_description: ClassVar[str] = "the training data, its length, and the output"

    folder: str = setting("trained", help="folder of the policy, the log and the report")
    resume: bool = setting(False, help="continue the run in the folder, as if it had not been interrupted")
    seed: int = setting(0, help="seed of all randomness", minimum=0, maximum=2**31)
    suite: str = setting("default", help="clusters and workloads to train on: a name in data/training, or a YAML file")
    decisions: int = setting(1_000_000, help="decisions of PPO; 0 stops after the warm start", minimum=0)
    first_entropy: float = setting(0.3, help="mean entropy (nats) at the start of PPO, after a search", above=0)
    groups: int = setting(8, help="episodes at once", minimum=1)
    members: int = setting(8, help="simulations of each episode, whose mean reward is the baseline", minimum=1)
    threads: int = setting(0, help="simulating threads; 0: one per core", minimum=0)
    save_every: int = setting(25, help="updates between checkpoints", minimum=1)
    validate_every: int = setting(25, help="updates between comparisons with the baselines", minimum=1)
    validation_episodes: int = setting(48, help="episodes of a comparison", minimum=1)


@dataclass(frozen=True)
class SearchConfig(Config):
    """The search of the weights of the interactions."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "search"
    help_description: ClassVar[str] = "find weights of the interactions by the cost of whole episodes, before PPO"

    search_iterations: int = setting(60, help="iterations of the cross-entropy method; 0 skips the search", minimum=0)
    search_candidates: int = setting(48, help="candidates per iteration", minimum=4)
    search_episodes: int = setting(24, help="episodes that each candidate replays", minimum=1)


@dataclass(frozen=True)
class WarmStartConfig(Config):
    """Behaviour cloning and DAgger, before PPO."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "warm start"
    help_description: ClassVar[str] = "behaviour cloning, then DAgger on the marginal costs that lookahead estimates"

    demonstrators: tuple[str, ...] = setting(
        (), help="schedulers to clone, with weights: least_tokens=2 lor=1 random=0.5; by default none"
    )
    clone_decisions: int = setting(20_000, help="demonstrated decisions of all schedulers together", minimum=100)
    clone_epochs: int = setting(10, help="passes over the demonstrations", minimum=1)
    dagger_rounds: int = setting(0, help="rounds of DAgger; 0 skips it", minimum=0)
    dagger_episodes: int = setting(40, help="episodes per round", minimum=1)
    dagger_decisions: int = setting(800, help="decisions per episode", minimum=1)
    dagger_epochs: int = setting(8, help="passes over all states after each round", minimum=1)
    dagger_temperature: float = setting(0.1, help="weight of the entropy beside the cost", minimum=0)
    warm_learning_rate: float = setting(1e-3, help="learning rate of Adam", above=0)
    warm_minibatch: int = setting(1024, help="states per gradient step", minimum=1)

    def check(self) -> None:
        for text in self.demonstrators:
            parse_demonstrator(text)


def parse_demonstrator(text: str) -> tuple[str, float]:
    """Split `least_tokens=2` into a name and a weight, by default 1. Raises InputError."""
    name, _, weight = text.partition("=")
    try:
        value = float(weight or 1.0)
    except ValueError:
        raise InputError(f"--demonstrators: expected SCHEDULER=WEIGHT, not {text!r}") from None
    if not name or not 0 <= value < float("inf"):
        raise InputError(f"--demonstrators: expected SCHEDULER=WEIGHT with a weight of at least 0, not {text!r}")
    from rl.simulate.demonstrations import scheduler_names

    if name not in scheduler_names():
        raise unknown_name("scheduler of --demonstrators:", name, scheduler_names())
    return name, value


@dataclass(frozen=True)
class WarmStartRunConfig(Config):
    """A warm start on its own."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "run"
    help_description: ClassVar[str] = "the output, the training data, and the network"

    output: str = setting("warm_start.safetensors", help="file of the policy")
    seed: int = setting(0, help="seed of all randomness", minimum=0, maximum=2**31)
    suite: str = setting("default", help="clusters and workloads to train on: a name in data/training, or a YAML file")
    max_queue_requests: int = setting(
        DEFAULT_QUEUE_REQUESTS, help="waiting requests per replica that the policy observes", minimum=0, maximum=64
    )
    hidden_1: int = setting(32, help="units of the first hidden layer", minimum=1, maximum=1024)
    hidden_2: int = setting(16, help="units of the second hidden layer", minimum=1, maximum=1024)
    beta: float = setting(10.0, help="beta of the comparison with schedulers", minimum=0)
    validation_episodes: int = setting(12, help="episodes of the comparison", minimum=1)
    threads: int = setting(0, help="simulating threads; 0: one per core", minimum=0)
