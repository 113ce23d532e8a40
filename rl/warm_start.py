"""Before PPO: clone schedulers from demonstrations, then learn the marginal costs of placements (DAgger).

Behaviour cloning reproduces what it is shown, and balanced routing is a local optimum that PPO does not leave. DAgger
(Ross et al., 2011, arXiv 1011.0686) visits the states of the policy itself and labels every choice there with what it
costs, with the true output lengths, which training may know and the features may not. Its loss is linear in the costs,

    sum_a pi(a) c(a) + temperature * sum_a pi(a) log pi(a),

so the policy learns the cost to be expected given what it can see.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rl.cost import cost_weights
from rl.network import Actor
from rl.ppo import finite
from rl.rollout import BY_COST, BY_POLICY, RunningSimulation
from rl.suite import TrainingSuite
from rl.trainer import padded
from vidur.config.base import Config, setting
from vidur.errors import InputError

# A choice that costs more than this above the best is simply bad; so is one that its replica refuses.
_MOST = 20.0


@dataclass(frozen=True)
class WarmStartConfig(Config):
    """How a policy is made before PPO."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "warm start"
    help_description: ClassVar[str] = "behaviour cloning, then DAgger on the marginal costs that lookahead estimates"

    demonstrators: tuple[str, ...] = setting(
        (), help="schedulers to clone, with weights: least_tokens=2 lor=1 random=0.5; none clones nobody"
    )
    clone_decisions: int = setting(20_000, help="decisions demonstrated, all schedulers together", minimum=1)
    clone_epochs: int = setting(10, help="passes over the demonstrations", minimum=1)
    dagger_rounds: int = setting(4, help="rounds of DAgger; 0 is none", minimum=0)
    dagger_episodes: int = setting(40, help="episodes of a round", minimum=1)
    dagger_decisions: int = setting(800, help="decisions of an episode", minimum=1)
    dagger_epochs: int = setting(8, help="passes over all states after each round", minimum=1)
    dagger_temperature: float = setting(0.1, help="weight of the entropy beside the cost", minimum=0)
    warm_learning_rate: float = setting(1e-3, help="of Adam", above=0)
    warm_minibatch: int = setting(1024, help="states of one gradient step", minimum=1)

    def check(self) -> None:
        for text in self.demonstrators:
            parse_demonstrator(text)


def parse_demonstrator(text: str) -> tuple[str, float]:
    """`least_tokens=2` as a name and a weight, 1 if none is given. Raises InputError."""
    name, _, weight = text.partition("=")
    try:
        value = float(weight or 1.0)
    except ValueError:
        raise InputError(f"--demonstrators: expected SCHEDULER=WEIGHT, not {text!r}") from None
    if not name or not 0 <= value < float("inf"):
        raise InputError(f"--demonstrators: expected SCHEDULER=WEIGHT with a weight of at least 0, not {text!r}")
    return name, value


@dataclass(frozen=True)
class States:
    """Labelled states: features [N, R, F], contexts [N, G], masks bool[N, R], costs [N, R], each above the best."""

    features: Tensor
    contexts: Tensor
    masks: Tensor
    costs: Tensor

    def __len__(self) -> int:
        return len(self.features)


def dagger(
    actor: Actor, suite: TrainingSuite, max_queue_requests: int, config: WarmStartConfig, seed: int, threads: int
) -> list[dict[str, float]]:
    """Train `actor` by DAgger; its normaliser is taken from the first round. Returns a row for each round: states,
    the mean cost of the policy's choices above the best, and that of a uniform choice. Same seed, same bytes."""
    generator = torch.Generator().manual_seed(seed)
    collected: list[States] = []
    rows = []
    for round_ in range(config.dagger_rounds):
        collected.append(_collect(actor, suite, max_queue_requests, config, [seed, round_], round_ == 0, threads))
        states = _concatenate(collected)
        if round_ == 0:
            actor.fit_normaliser(states.features, states.contexts, states.masks)
        last = round_ == config.dagger_rounds - 1
        _fit(actor, states, config, last, generator)
        with torch.no_grad():
            newest = collected[-1]
            probabilities = actor(newest.features, newest.contexts, newest.masks).exp()
            uniform = newest.masks.float() / newest.masks.sum(1, keepdim=True)
            row = {
                "states": float(len(states)),
                "cost": (probabilities * newest.costs).sum(1).mean().item(),
                "cost_of_random": (uniform * newest.costs).sum(1).mean().item(),
            }
        rows.append(row)
        print(
            f"DAgger {round_ + 1}/{config.dagger_rounds}: {len(states):,} states, cost above the best "
            f"{row['cost']:.3f} (random {row['cost_of_random']:.3f})",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return rows


def _collect(
    actor: Actor, suite: TrainingSuite, max_queue_requests: int, config: WarmStartConfig, key: Sequence[int],
    by_cost: bool, threads: int,
) -> States:  # fmt: skip
    """States on the policy's own path (the first time on the path of the least costs), with the costs of all choices."""
    weights = actor.weights()
    episodes = [suite.draw(np.random.default_rng([*key, index])) for index in range(config.dagger_episodes)]

    def roll(index: int) -> States:
        episode, rng = episodes[index], np.random.default_rng([*key, index, 1])
        simulation = RunningSimulation.of(
            episode.plans, episode.requests, max_queue_requests, episode.beta, episode.events
        )
        prices = cost_weights(episode.beta, episode.time_unit)
        mode = BY_COST if by_cost else BY_POLICY
        rollout = simulation.roll(weights.memory(episode.beta, True), config.dagger_decisions, rng, mode, True, prices)
        count = len(rollout)
        parts = rollout.all_costs[:count]
        # A refusal is inf in the first part, and 0 in the others.
        refused = np.isinf(parts[:, :, 0])
        costs = np.where(refused, np.inf, np.where(np.isfinite(parts), parts, 0.0) @ prices)
        above = np.minimum(costs - costs.min(1, keepdims=True), _MOST)
        most = suite.max_replicas
        return States(
            torch.from_numpy(padded(rollout.features[:count], most)),
            torch.from_numpy(rollout.contexts[:count]),
            torch.from_numpy(padded(rollout.masks[:count], most)),
            torch.from_numpy(padded(above, most)).float(),
        )

    with ThreadPoolExecutor(threads) as pool:
        return _concatenate(list(pool.map(roll, range(len(episodes)))))


def _concatenate(states: Sequence[States]) -> States:
    return States(
        torch.cat([item.features for item in states]),
        torch.cat([item.contexts for item in states]),
        torch.cat([item.masks for item in states]),
        torch.cat([item.costs for item in states]),
    )


def _fit(actor: Actor, states: States, config: WarmStartConfig, last: bool, generator: torch.Generator) -> None:
    """Minimise the expected cost over all states; after the last round with a learning rate that goes to 0."""
    optimizer = torch.optim.Adam(actor.parameters(), config.warm_learning_rate)
    for epoch in range(config.dagger_epochs):
        if last:
            for group in optimizer.param_groups:
                group["lr"] = config.warm_learning_rate * (1 - epoch / config.dagger_epochs)
        for rows in torch.randperm(len(states), generator=generator).split(config.warm_minibatch):
            distribution = actor(states.features[rows], states.contexts[rows], states.masks[rows])
            probabilities = distribution.exp()
            cost = (probabilities * states.costs[rows]).sum(1)
            negative_entropy = (probabilities * finite(distribution)).sum(1)
            loss = (cost + config.dagger_temperature * negative_entropy).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
