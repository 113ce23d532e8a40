"""Measure what a reward can tell apart, on schedulers of known quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rl.reward.cost import cost_weights
from rl.reward.reward import Reward, Window
from rl.simulate.demonstrations import begin_simulation, make_scheduler, run_scheduler
from rl.simulate.rollout import Plans
from vidur.config import SimulationConfig
from vidur.config.request_generator import SyntheticRequestGeneratorConfig
from vidur.config.request_interval_generator import (
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
)
from vidur.errors import InputError
from vidur.observation import Floats
from vidur.request_generator import generate_requests

RANDOM = "random"

# The share of decisions to skip at the beginning, whose lifetime averages are of few requests. The last decision is
# skipped too, as its interval lasts until the cluster is empty.
_WARM_UP = 0.1
_DISCOUNT = 0.99
# A reward need not tell schedulers apart whose means differ by less than this share.
_ALIKE = 0.005
# Random choices have advantage 0 on average in every state, so the standard error of its correlation with a reward is
# 1 / sqrt(count).
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class RoutedEpisode:
    """A simulation routed by one scheduler. Times are in seconds, costs in the units of rl.reward.cost.

    costs [T]: the marginal cost of each decision. advantages [T]: the mean cost of all choices minus that of the choice
    made.
    """

    scheduler: str
    seed: int
    window: Window
    costs: Floats
    advantages: Floats

    @property
    def mean_e2e(self) -> float:
        return float(np.nanmean(self.window.e2e))

    @property
    def p99_ttft(self) -> float:
        return float(np.nanpercentile(self.window.ttft, 99))

    @property
    def counted(self) -> slice:
        return slice(int(_WARM_UP * len(self.window)), len(self.window) - 1)


@dataclass(frozen=True)
class Credit:
    """The correlation of the advantages of `count` random choices with rewards.

    own: with the decision's own reward; following: with the discounted sum of rewards from the decision on.
    """

    own: float
    following: float
    count: int

    @staticmethod
    def decisions(correlation: float) -> float:
        """Return the number of random decisions after which the correlation is two standard errors above 0."""
        return (_STANDARD_ERRORS / correlation) ** 2 if correlation > 0 else np.inf

    def shows(self, correlation: float) -> bool:
        """Return whether `count` decisions suffice to show the correlation."""
        return self.decisions(correlation) <= self.count


@dataclass(frozen=True)
class SchedulerFigures:
    """The rewards of one scheduler. raw, scaled, clipped: of the counted decisions of all episodes.

    std: standard deviation of the clipped rewards in an episode, averaged over the episodes. share_low, share_high: the
    share of decisions clipped. gap: the ceiling minus the mean clipped reward.
    """

    scheduler: str
    mean_e2e: float
    p99_ttft: float
    mean_cost: float
    raw: Floats
    scaled: Floats
    clipped: Floats
    std: float
    share_low: float
    share_high: float
    gap: float


@dataclass(frozen=True)
class RewardFigures:
    """What a reward can tell apart. ceiling: the highest clipped reward of any counted decision.

    tau_e2e, tau_cost: Kendall's rank correlation of the mean clipped reward with the negated mean E2E and mean cost,
    over the pairs of schedulers that differ by half a percent or more; None if there are none. best_over_worst: the
    difference in mean clipped reward between the schedulers of the least and the greatest mean E2E, in standard
    deviations of a decision's reward. cost_correlation: of the clipped rewards with the negated marginal costs.
    credit: of random choices; centred_credit: after subtracting, at each decision, the mean reward of simulations that
    replay the same requests, as training does.
    """

    reward: str
    schedulers: tuple[SchedulerFigures, ...]
    ceiling: float
    tau_e2e: float | None
    tau_cost: float | None
    best_over_worst: float
    cost_correlation: float
    credit: Credit
    centred_credit: Credit


def workload(config: SimulationConfig, qps: float | None, requests: int | None, seed: int) -> SimulationConfig:
    """Return the configuration with this load, number of requests and seed. Raises InputError."""
    generator = config.request_generator_config
    if not isinstance(generator, SyntheticRequestGeneratorConfig):
        raise InputError("--config: a reward report needs synthetic requests, to draw them for each seed")
    if qps is not None:
        intervals = generator.interval_generator_config
        if not isinstance(intervals, (PoissonRequestIntervalGeneratorConfig, GammaRequestIntervalGeneratorConfig)):
            raise InputError(f"--qps: {intervals.get_type()} intervals have no rate: use poisson or gamma")
        generator = replace(generator, interval_generator_config=replace(intervals, qps=qps))
    if requests is not None:
        generator = replace(generator, num_requests=requests)
    return replace(config, request_generator_config=replace(generator, seed=seed))


def run_episodes(
    config: SimulationConfig,
    schedulers: Sequence[str],
    seeds: Sequence[int],
    members: int,
    beta: float,
    on_episode: Callable[[], None] = lambda: None,
) -> list[RoutedEpisode]:
    """Run every scheduler on the requests of every seed; the random one `members` times, each with other draws."""
    episodes = []
    for seed in seeds:
        seeded = workload(config, None, None, seed)
        requests = generate_requests(seeded.request_generator_config)
        plans = Plans.of(seeded, requests)
        for name in dict.fromkeys([*schedulers, RANDOM]):
            for member in range(members if name == RANDOM else 1):
                rng = np.random.default_rng([seed, member])
                scheduler = make_scheduler(name, plans, requests, beta, rng)
                simulation = begin_simulation(scheduler, plans, requests, 0, beta)
                rollout = run_scheduler(simulation, scheduler, 0, labels=True)
                window = Window.of(rollout, simulation)
                weights = cost_weights(beta, window.time_unit)
                all_costs = rollout.all_costs @ weights
                all_costs[np.isinf(all_costs)] = np.nan
                costs = rollout.costs @ weights
                episodes.append(RoutedEpisode(name, seed, window, costs, np.nanmean(all_costs, 1) - costs))
                on_episode()
    return episodes


def judge(
    reward: Reward, episodes: Sequence[RoutedEpisode], schedulers: Sequence[str], progress: float
) -> RewardFigures:
    """Evaluate the reward on the episodes, at a progress (0 to 1) of the training; all share its normalisation."""
    for episode in episodes:
        reward.evaluate(episode.window, progress)
    results = [reward.evaluate(episode.window, progress, learn=False) for episode in episodes]
    clipped = [result.clipped[episode.counted] for result, episode in zip(results, episodes, strict=True)]
    ceiling = max(float(values.max()) for values in clipped)
    figures = []
    for name in schedulers:
        chosen = [i for i, episode in enumerate(episodes) if episode.scheduler == name]
        own = [episodes[i] for i in chosen]
        raw, scaled, cut = (
            np.concatenate([getattr(results[i], stage)[episodes[i].counted] for i in chosen])
            for stage in ("raw", "scaled", "clipped")
        )
        figures.append(
            SchedulerFigures(
                scheduler=name,
                mean_e2e=float(np.mean([episode.mean_e2e for episode in own])),
                p99_ttft=float(np.mean([episode.p99_ttft for episode in own])),
                mean_cost=float(np.mean([episode.costs.mean() for episode in own])),
                raw=raw,
                scaled=scaled,
                clipped=cut,
                std=float(np.mean([clipped[i].std() for i in chosen])),
                share_low=float(np.mean(scaled < cut)),
                share_high=float(np.mean(scaled > cut)),
                gap=ceiling - float(cut.mean()),
            )
        )
    means = np.array([scheduler.clipped.mean() for scheduler in figures])
    e2e = np.array([scheduler.mean_e2e for scheduler in figures])
    best, worst = figures[int(e2e.argmin())], figures[int(e2e.argmax())]
    spread = (best.std + worst.std) / 2
    costs = np.concatenate([episode.costs[episode.counted] for episode in episodes])
    pairs = [(ep, result.clipped) for ep, result in zip(episodes, results, strict=True) if ep.scheduler == RANDOM]
    random_episodes, random_rewards = [episode for episode, _ in pairs], [rewards for _, rewards in pairs]
    mean_costs = np.array([scheduler.mean_cost for scheduler in figures])
    return RewardFigures(
        reward=reward.config.name,
        schedulers=tuple(figures),
        ceiling=ceiling,
        tau_e2e=kendall_tau(means, -e2e, _ALIKE * e2e.mean()),
        tau_cost=kendall_tau(means, -mean_costs, _ALIKE * mean_costs.mean()),
        best_over_worst=float(best.clipped.mean() - worst.clipped.mean()) / spread if spread > 0 else 0.0,
        cost_correlation=correlation(np.concatenate(clipped), -costs),
        credit=_credit(random_episodes, random_rewards),
        centred_credit=_credit(random_episodes, _centred(random_rewards, [ep.seed for ep in random_episodes])),
    )


def _centred(rewards: Sequence[Floats], groups: Sequence[int]) -> list[Floats]:
    """Subtract at each decision the mean over the group."""
    pairs = list(zip(rewards, groups, strict=True))
    means = {group: np.mean([reward for reward, other in pairs if other == group], 0) for group in groups}
    return [reward - means[group] for reward, group in pairs]


def _credit(episodes: Sequence[RoutedEpisode], rewards: Sequence[Floats]) -> Credit:
    pairs = list(zip(episodes, rewards, strict=True))
    advantages = np.concatenate([episode.advantages[episode.counted] for episode in episodes])
    own = np.concatenate([reward[episode.counted] for episode, reward in pairs])
    following = np.concatenate([discounted(reward[episode.counted], _DISCOUNT) for episode, reward in pairs])
    return Credit(correlation(own, advantages), correlation(following, advantages), len(advantages))


def discounted(rewards: Floats, discount: float) -> Floats:
    """Return the discounted return from each decision on, [T], of rewards less their mean."""
    sums = np.zeros(len(rewards))
    total = 0.0
    for step in range(len(rewards) - 1, -1, -1):
        total = rewards[step] - rewards.mean() + discount * total
        sums[step] = total
    return sums


def correlation(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation; 0 if a or b is constant."""
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-12 else 0.0


def kendall_tau(a: Floats, b: Floats, apart: float) -> float | None:
    """Return Kendall's tau over the pairs that differ by `apart` or more in b; None if there are none."""
    upper = np.triu_indices(len(a), 1)
    x, y = ((values[:, None] - values[None, :])[upper] for values in (a, b))
    differ = np.abs(y) >= apart
    return float((np.sign(x) * np.sign(y))[differ].mean()) if differ.any() else None
