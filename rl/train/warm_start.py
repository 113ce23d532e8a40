"""Clone schedulers from demonstrations, then learn the marginal costs of placements by DAgger, before PPO.

Behaviour cloning only reproduces the schedulers, and balanced routing is a local optimum that PPO does not leave.
DAgger (Ross et al., 2011, arXiv 1011.0686) visits the policy's own states and labels every choice with its cost. The
cost takes the true output lengths, which training may use but features may not. The loss is linear in the costs c,

    sum_a pi(a) c(a) + temperature * sum_a pi(a) log pi(a),

so the policy learns the expected cost given its observation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from rl.reward.cost import cost_weights
from rl.router.checkpoint import Checkpoint
from rl.simulate.demonstrations import begin_simulation, make_scheduler, run_scheduler
from rl.simulate.rollout import BY_COST, BY_POLICY, Rollout, RunningSimulation
from rl.train.collector import Collector
from rl.train.config import WarmStartConfig, WarmStartRunConfig, parse_demonstrator
from rl.train.log import clone_table
from rl.train.network import Actor
from rl.train.ppo import finite
from rl.train.suite import TrainingSuite
from rl.train.trainer import padded, states_of
from rl.train.validation import Validation
from vidur.compare.console import make_console, make_table, print_table
from vidur.errors import InputError
from vidur.observation import Floats
from vidur.progress import Progress

# The most that a choice can cost above the best one; a refused choice costs this too.
_MOST = 20.0

# Decisions per episode of a demonstrator.
_CLONE_DECISIONS = 400


@dataclass(frozen=True)
class LabelledStates:
    """States with the costs [N, R] of all choices above the best: features [N, R, F], contexts [N, G], masks [N, R]."""

    features: Tensor
    contexts: Tensor
    masks: Tensor
    costs: Tensor

    def __len__(self) -> int:
        return len(self.features)


def dagger(
    actor: Actor, suite: TrainingSuite, max_queue_requests: int, config: WarmStartConfig, seed: int, threads: int
) -> list[dict[str, float]]:
    """Train `actor`, whose normaliser is set, by DAgger. The same seed gives the same bytes.

    Returns for each round the number of states, and the mean cost above the best of the policy and of random choices.
    """
    generator = torch.Generator().manual_seed(seed)
    collected: list[LabelledStates] = []
    rows = []
    for round_ in range(config.dagger_rounds):
        collected.append(_collect(actor, suite, max_queue_requests, config, [seed, round_], round_ == 0, threads))
        states = _concatenate(collected)
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
) -> LabelledStates:  # fmt: skip
    """Collect labelled states that the policy visits or, with `by_cost`, that choices of the least cost visit."""
    weights = actor.weights()
    episodes = [suite.draw(np.random.default_rng([*key, index])) for index in range(config.dagger_episodes)]

    def roll(index: int) -> LabelledStates:
        episode, rng = episodes[index], np.random.default_rng([*key, index, 1])
        simulation = RunningSimulation.of(
            episode.plans, episode.requests, max_queue_requests, episode.beta, episode.events
        )
        prices = cost_weights(episode.beta, episode.time_unit)
        mode = BY_COST if by_cost else BY_POLICY
        rollout = simulation.roll(weights.memory(episode.beta, True), config.dagger_decisions, rng, mode, True, prices)
        return _states(rollout, prices, suite.max_replicas)

    with ThreadPoolExecutor(threads) as pool:
        rolled = pool.map(roll, range(len(episodes)))
        return _concatenate(list(Progress("episodes of a round of DAgger", len(episodes)).over(rolled)))


def _states(rollout: Rollout, prices: Floats, most: int) -> LabelledStates:
    """Return a rollout's states with the costs of all choices, padded to `most` replicas."""
    count = len(rollout)
    parts = rollout.all_costs[:count]
    refused = np.isinf(parts[:, :, 0])
    costs = np.where(refused, np.inf, np.where(np.isfinite(parts), parts, 0.0) @ prices)
    above = np.minimum(costs - costs.min(1, keepdims=True), _MOST)
    return LabelledStates(
        torch.from_numpy(padded(rollout.features[:count], most)),
        torch.from_numpy(rollout.contexts[:count]),
        torch.from_numpy(padded(rollout.masks[:count], most)),
        torch.from_numpy(padded(above, most)).float(),
    )


def _concatenate(states: Sequence[LabelledStates]) -> LabelledStates:
    return LabelledStates(
        torch.cat([item.features for item in states]),
        torch.cat([item.contexts for item in states]),
        torch.cat([item.masks for item in states]),
        torch.cat([item.costs for item in states]),
    )


def clone(
    actor: Actor, suite: TrainingSuite, max_queue_requests: int, config: WarmStartConfig, seed: int,
    validation: Validation,
) -> dict[str, Any]:  # fmt: skip
    """Train `actor`, whose normaliser is set, to decide as the demonstrators do, by weighted cross-entropy.

    A tenth of the episodes is held out. Returns the clone's mean_e2e, mean_ttft and p99_ttft in `validation`, in
    seconds, and `demonstrators`, with for each: scheduler, weight, decisions, agreement (share of held-out decisions
    that are the clone's most probable choice), cost and cost_of_clone (mean marginal costs above the best of its and of
    the clone's choices in its held-out states), and the same latencies.
    """
    demonstrators = [parse_demonstrator(text) for text in config.demonstrators]
    generator = torch.Generator().manual_seed(seed)
    demonstrations = [
        _demonstrate(name, suite, max_queue_requests, config.clone_decisions // len(demonstrators), [seed, 2, index])
        for index, (name, _) in enumerate(demonstrators)
    ]
    training = _concatenate([states for states, _, _ in demonstrations])
    actions = torch.cat([actions for _, actions, _ in demonstrations])
    pairs = zip(demonstrators, demonstrations, strict=True)
    weights = torch.cat([torch.full((len(test),), weight) * ~test for (_, weight), (_, _, test) in pairs])
    optimizer = torch.optim.Adam(actor.parameters(), config.warm_learning_rate)
    for _ in Progress("epochs of cloning", config.clone_epochs).over(range(config.clone_epochs)):
        for rows in torch.split(torch.randperm(len(training), generator=generator), config.warm_minibatch):
            distribution = actor(training.features[rows], training.contexts[rows], training.masks[rows])
            taken = distribution.gather(1, actions[rows, None]).squeeze(1)
            loss = -(weights[rows] * taken).sum() / weights[rows].sum().clamp_min(1e-6)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            actor.bound()
    rows_of_demonstrators = [
        {
            "scheduler": name,
            "weight": weight,
            "decisions": len(actions),
            **_agreement(actor, states, actions, test),
            **validation.scheduler_latencies(name),
        }
        for (name, weight), (states, actions, test) in zip(demonstrators, demonstrations, strict=True)
    ]
    return {"demonstrators": rows_of_demonstrators, **validation.policy_latencies(actor.weights())}


def print_clone(cloned: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Print what `clone` returned as a table to `file`, by default standard output."""
    console = make_console(file)
    headings, *rows = clone_table(cloned)
    table = make_table(console, headings)
    for row in rows:
        table.add_row(*row)
    print_table(console, "Cloned; costs are above the best choice's, in the demonstrator's states", table)


@torch.no_grad()
def _agreement(actor: Actor, states: LabelledStates, actions: Tensor, test: Tensor) -> dict[str, float]:
    cloned = actor(states.features[test], states.contexts[test], states.masks[test]).argmax(1)
    costs, demonstrated = states.costs[test], actions[test]
    return {
        "agreement": (cloned == demonstrated).float().mean().item(),
        "cost": costs.gather(1, demonstrated[:, None]).mean().item(),
        "cost_of_clone": costs.gather(1, cloned[:, None]).mean().item(),
    }


def _demonstrate(
    name: str, suite: TrainingSuite, max_queue_requests: int, decisions: int, key: Sequence[int]
) -> tuple[LabelledStates, Tensor, Tensor]:
    """Return labelled states that a scheduler visits, its choices, and which of them are held out."""
    states: list[LabelledStates] = []
    actions, test = [], []
    number = count = 0
    with Progress(f"decisions of {name} demonstrated", decisions) as progress:
        while count < decisions:
            episode = suite.draw(np.random.default_rng([*key, number]))
            scheduler = make_scheduler(
                name, episode.plans, episode.requests, episode.beta, np.random.default_rng([*key, number, 1])
            )
            simulation = begin_simulation(
                scheduler, episode.plans, episode.requests, max_queue_requests, episode.beta, episode.events
            )
            most = min(decisions - count, _CLONE_DECISIONS, max(decisions // 10, 1))
            rollout = run_scheduler(simulation, scheduler, max_queue_requests, most, labels=True)
            states.append(_states(rollout, cost_weights(episode.beta, episode.time_unit), suite.max_replicas))
            actions.append(torch.from_numpy(rollout.actions))
            test.append(torch.full((len(rollout),), number % 10 == 9))
            count += len(rollout)
            progress.update(count)
            number += 1
    return _concatenate(states), torch.cat(actions), torch.cat(test)


def _fit(actor: Actor, states: LabelledStates, config: WarmStartConfig, last: bool, generator: torch.Generator) -> None:
    """Minimise the expected cost over all states; in the last round the learning rate falls to 0."""
    optimizer = torch.optim.Adam(actor.parameters(), config.warm_learning_rate)
    for epoch in Progress("epochs of DAgger", config.dagger_epochs).over(range(config.dagger_epochs)):
        if last:
            for group in optimizer.param_groups:
                group["lr"] = config.warm_learning_rate * (1 - epoch / config.dagger_epochs)
        for rows in torch.split(torch.randperm(len(states), generator=generator), config.warm_minibatch):
            distribution = actor(states.features[rows], states.contexts[rows], states.masks[rows])
            probabilities = distribution.exp()
            cost = (probabilities * states.costs[rows]).sum(1)
            negative_entropy = (probabilities * finite(distribution)).sum(1)
            loss = (cost + config.dagger_temperature * negative_entropy).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            actor.bound()


def run_warm_start(run: WarmStartRunConfig, warm: WarmStartConfig) -> None:
    """Train as the flags say, save the policy, and print its comparison with baselines. Raises InputError."""
    if not warm.demonstrators and not warm.dagger_rounds:
        raise InputError("nothing to learn from: give --demonstrators least_tokens=1 lor=1, or --dagger_rounds 4")
    torch.set_num_threads(1)
    suite = TrainingSuite.read(run.suite)
    threads = run.threads or len(os.sched_getaffinity(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        actor = Actor(run.max_queue_requests, run.hidden_1, run.hidden_2)
    collector = Collector(suite, run.max_queue_requests, 32, 1, run.seed + 1, threads)
    actor.fit_normaliser(*states_of(collector.collect(actor.weights(), suite.requests // 3)[0]))
    validation = Validation(suite, run.max_queue_requests, run.beta, run.validation_episodes, threads)
    cloned = clone(actor, suite, run.max_queue_requests, warm, run.seed, validation) if warm.demonstrators else None
    rounds = dagger(actor, suite, run.max_queue_requests, warm, run.seed, threads) if warm.dagger_rounds else []
    facts = {
        "warm_start": asdict(warm),
        "run": asdict(run),
        "clone": cloned,
        "rounds": rounds,
        "uses_the_future": False,
    }
    Checkpoint(actor.weights(), run.max_queue_requests, facts, normaliser=actor.normaliser()).save(run.output)
    if cloned is not None:
        print_clone(cloned)
    figures = validation.figures(actor.weights())
    for baseline in validation.baselines:
        parts = [f"{label} {100 * figures[f'{name}_vs_{baseline}']:+.1f} %"
                 for name, label in (("mean_e2e", "mean E2E"), ("p99_ttft", "p99 TTFT"))]  # fmt: skip
        print(f"Against {baseline}: {', '.join(parts)}")
    print(f"Policy: {run.output}")
