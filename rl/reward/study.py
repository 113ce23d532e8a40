"""What a reward makes of schedulers whose quality is known: what it can see, and what it cannot."""

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

# The first decisions see lifetime averages of few requests; they are left out, as is the last, whose interval is the
# time until the cluster is empty.
_WARM_UP = 0.1
_DISCOUNT = 0.99
# Schedulers whose means differ by less than this part are alike: no reward has to tell them apart.
_ALIKE = 0.005
# Random choices are worth 0 on average whatever the state, so the standard error of their correlation with anything
# that came before is 1 / sqrt(count).
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class RoutedEpisode:
    """One simulation routed by one scheduler. Seconds; costs in the units of rl.reward.cost.

    costs [T]: the marginal cost of each decision. worth [T]: by how much the decision was better than a random one: the
    mean cost of the choices less the cost of the one made.
    """

    scheduler: str
    seed: int
    window: Window
    costs: Floats
    worth: Floats

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
    """How much of a random choice's worth shows: the correlation over `count` decisions, with the decision's own reward
    and with the discounted rewards from it on."""

    own: float
    following: float
    count: int

    @staticmethod
    def decisions(correlation: float) -> float:
        """Random decisions after which the correlation is two standard errors above 0."""
        return (_STANDARD_ERRORS / correlation) ** 2 if correlation > 0 else np.inf

    def shows(self, correlation: float) -> bool:
        """Whether it is beyond two standard errors in as many decisions as there were."""
        return self.decisions(correlation) <= self.count


@dataclass(frozen=True)
class SchedulerFigures:
    """What a reward makes of one scheduler. raw, scaled, clipped: of the decisions that count, of all episodes.

    std: of the clipped rewards of an episode, the mean over the episodes. gap: how far the mean clipped reward is below
    the ceiling.
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
    """What a reward can see. ceiling: the highest clipped reward of any decision that counts.

    tau_e2e, tau_cost: Kendall's rank correlation of the mean clipped reward with the mean E2E, and with the mean cost,
    both negated, over the pairs of schedulers that differ by half a percent or more; None if there are none.
    best_over_worst: between the schedulers of the least and the greatest mean E2E, the difference of mean clipped
    reward in standard deviations of a decision's. cost_correlation: of a decision's clipped reward with its marginal
    cost, negated, over all decisions. credit: of random choices; centred_credit: where the mean reward of simulations
    that replay the same requests is taken off at each decision, as in training.
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
    """The configuration with its arrivals at `qps`, `requests` of them, of that seed. Raises InputError."""
    generator = config.request_generator_config
    if not isinstance(generator, SyntheticRequestGeneratorConfig):
        raise InputError("--config: a reward report needs synthetic requests, which it draws anew for each seed")
    if qps is not None:
        intervals = generator.interval_generator_config
        if not isinstance(intervals, (PoissonRequestIntervalGeneratorConfig, GammaRequestIntervalGeneratorConfig)):
            raise InputError(f"--qps: {intervals.get_type()} intervals have no rate; poisson and gamma have one")
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
    """Every scheduler on the requests of every seed; the random one `members` times, with other draws each."""
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
                every = rollout.all_costs @ weights
                every[np.isinf(every)] = np.nan
                costs = rollout.costs @ weights
                episodes.append(RoutedEpisode(name, seed, window, costs, np.nanmean(every, 1) - costs))
                on_episode()
    return episodes


def judge(
    reward: Reward, episodes: Sequence[RoutedEpisode], schedulers: Sequence[str], progress: float
) -> RewardFigures:
    """What the reward makes of the episodes, at a progress (0 to 1) of training. Normalisation is over all of them."""
    for episode in episodes:
        reward.evaluate(episode.window, progress)
    results = [reward.evaluate(episode.window, progress, learn=False) for episode in episodes]
    clipped = [result.clipped[episode.counted] for result, episode in zip(results, episodes, strict=True)]
    ceiling = max(float(values.max()) for values in clipped)
    figures = []
    for name in schedulers:
        chosen = [place for place, episode in enumerate(episodes) if episode.scheduler == name]
        its = [episodes[place] for place in chosen]
        raw, scaled, cut = (
            np.concatenate([getattr(results[place], stage)[episodes[place].counted] for place in chosen])
            for stage in ("raw", "scaled", "clipped")
        )
        figures.append(
            SchedulerFigures(
                scheduler=name,
                mean_e2e=float(np.mean([episode.mean_e2e for episode in its])),
                p99_ttft=float(np.mean([episode.p99_ttft for episode in its])),
                mean_cost=float(np.mean([episode.costs.mean() for episode in its])),
                raw=raw,
                scaled=scaled,
                clipped=cut,
                std=float(np.mean([clipped[place].std() for place in chosen])),
                share_low=float(np.mean(scaled < cut)),
                share_high=float(np.mean(scaled > cut)),
                gap=ceiling - float(cut.mean()),
            )
        )
    means = np.array([its.clipped.mean() for its in figures])
    e2e = np.array([its.mean_e2e for its in figures])
    best, worst = figures[int(e2e.argmin())], figures[int(e2e.argmax())]
    spread = (best.std + worst.std) / 2
    costs = np.concatenate([episode.costs[episode.counted] for episode in episodes])
    played = [place for place, episode in enumerate(episodes) if episode.scheduler == RANDOM]
    randoms = [episodes[place] for place in played]
    gets = [results[place].clipped for place in played]
    mean_costs = np.array([its.mean_cost for its in figures])
    return RewardFigures(
        reward=reward.config.name,
        schedulers=tuple(figures),
        ceiling=ceiling,
        tau_e2e=kendall_tau(means, -e2e, _ALIKE * e2e.mean()),
        tau_cost=kendall_tau(means, -mean_costs, _ALIKE * mean_costs.mean()),
        best_over_worst=float(best.clipped.mean() - worst.clipped.mean()) / spread if spread > 0 else 0.0,
        cost_correlation=correlation(np.concatenate(clipped), -costs),
        credit=_credit(randoms, gets),
        centred_credit=_credit(randoms, _centred(gets, [episode.seed for episode in randoms])),
    )


def _centred(rewards: Sequence[Floats], groups: Sequence[int]) -> list[Floats]:
    """Less their mean over the group, at each decision."""
    pairs = list(zip(rewards, groups, strict=True))
    means = {group: np.mean([reward for reward, its in pairs if its == group], 0) for group in groups}
    return [reward - means[group] for reward, group in pairs]


def _credit(episodes: Sequence[RoutedEpisode], rewards: Sequence[Floats]) -> Credit:
    pairs = list(zip(episodes, rewards, strict=True))
    worth = np.concatenate([episode.worth[episode.counted] for episode in episodes])
    own = np.concatenate([reward[episode.counted] for episode, reward in pairs])
    following = np.concatenate([discounted(reward[episode.counted], _DISCOUNT) for episode, reward in pairs])
    return Credit(correlation(own, worth), correlation(following, worth), len(worth))


def discounted(rewards: Floats, discount: float) -> Floats:
    """[T]: of each decision, its reward and those after it, each later one discounted once more, less their mean."""
    sums = np.zeros(len(rewards))
    total = 0.0
    for step in range(len(rewards) - 1, -1, -1):
        total = rewards[step] - rewards.mean() + discount * total
        sums[step] = total
    return sums


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-12 else 0.0


def kendall_tau(a: Floats, b: Floats, apart: float) -> float | None:
    """Kendall's tau of a with b, over the pairs that are `apart` or more in b; None if there are none."""
    upper = np.triu_indices(len(a), 1)
    x, y = ((values[:, None] - values[None, :])[upper] for values in (a, b))
    told = np.abs(y) >= apart
    return float((np.sign(x) * np.sign(y))[told].mean()) if told.any() else None
