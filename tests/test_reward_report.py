"""python -m rl.reward_report: its statistics by hand, its verdicts on rewards of known merit, and the command."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from report_pages import page_and_charts

from rl.reward.report import main
from rl.reward.reward import Reward, RewardConfig
from rl.reward.study import RANDOM, RoutedEpisode, correlation, discounted, judge, kendall_tau, run_episodes
from rl.reward.verdict import verdict
from vidur.config import SimulationConfig

SMALL = {
    "cluster_config": {
        "num_replicas": 3,
        "replica_config": {"model_name": "meta-llama/Meta-Llama-3-8B", "device": "a100"},
    },
    "request_generator_config": {
        "type": "synthetic",
        "num_requests": 300,
        "length_generator_config": {"type": "quantile", "distribution": "azure_conv_2023", "max_tokens": 8192},
        "interval_generator_config": {"type": "poisson", "qps": 19},
    },
}
SCHEDULERS = ("round_robin", "random", "least_tokens")


@pytest.fixture(scope="module")
def episodes() -> list[RoutedEpisode]:
    return run_episodes(SimulationConfig.from_dict(SMALL), SCHEDULERS, [1, 2], 2, 10.0)


def reward(*terms: dict[str, object], **more: object) -> Reward:
    return Reward(RewardConfig.of({"terms": list(terms), **more}, "test"))


def test_statistics_by_hand() -> None:
    assert kendall_tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]), 0.1) == pytest.approx(1 / 3)
    # The last two are alike.
    assert kendall_tau(np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 2.05]), 0.1) == 1.0
    assert kendall_tau(np.array([1.0, 1.0]), np.array([1.0, 2.0]), 0.1) == 0.0
    assert kendall_tau(np.array([1.0, 2.0]), np.array([1.0, 1.0]), 0.1) is None
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(1.0)
    assert correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0.0
    # Less their mean, 2: -1, 1, 0.
    assert list(discounted(np.array([1.0, 3.0, 2.0]), 0.5)) == [-0.5, 1.0, 0.0]


def test_each_scheduler_plays_the_same_requests(episodes: list[RoutedEpisode]) -> None:
    assert [(episode.scheduler, episode.seed) for episode in episodes[:4]] == [
        ("round_robin", 1), ("random", 1), ("random", 1), ("least_tokens", 1),
    ]  # fmt: skip
    for seed in (1, 2):
        arrivals = [episode.window.arrived_at for episode in episodes if episode.seed == seed]
        assert all((other == arrivals[0]).all() for other in arrivals)
    members = [episode for episode in episodes if episode.scheduler == RANDOM and episode.seed == 1]
    assert (members[0].window.actions != members[1].window.actions).any()


def test_random_choices_have_no_advantage_on_average(episodes: list[RoutedEpisode]) -> None:
    advantages = np.concatenate([episode.advantages for episode in episodes if episode.scheduler == RANDOM])
    assert abs(advantages.mean()) < 3 * advantages.std() / np.sqrt(len(advantages))
    assert np.mean([episode.advantages.mean() for episode in episodes if episode.scheduler == "least_tokens"]) > 0


def test_the_marginal_cost_shows_the_advantage_of_a_choice(episodes: list[RoutedEpisode]) -> None:
    figures = judge(reward({"term": "marginal_cost"}), episodes, SCHEDULERS, 0.0)
    assert figures.cost_correlation == pytest.approx(1.0)
    assert figures.tau_cost == 1.0
    assert figures.credit.own > 0.2 and figures.credit.shows(figures.credit.own)
    assert figures.centred_credit.own > figures.credit.own
    for own in figures.schedulers:
        assert own.share_low == own.share_high == 0.0 and (own.raw == own.clipped).all()
        assert own.gap == pytest.approx(figures.ceiling - own.clipped.mean()) and own.gap > 0


def test_a_reward_at_its_bound_shows_nothing(episodes: list[RoutedEpisode]) -> None:
    figures = judge(reward({"term": "marginal_cost"}, clip={"high": -100}), episodes, SCHEDULERS, 0.0)
    assert figures.ceiling == -100.0
    assert all(own.share_high == 1.0 and own.gap == own.std == 0.0 for own in figures.schedulers)
    assert figures.credit.own == figures.credit.following == figures.best_over_worst == 0.0
    assert verdict(figures).startswith("no: ") and "does not show" in verdict(figures)


def test_lifetime_averages_give_a_choice_no_credit(episodes: list[RoutedEpisode]) -> None:
    """Repeat on a small scale what docs/rewards.md shows of the earlier system's reward."""
    averages = reward(
        {"term": "throughput", "target": 1.85, "over": "lifetime"},
        {"term": "latency_threshold", "threshold": 0, "over": "lifetime"},
    )
    figures = judge(averages, episodes, SCHEDULERS, 0.0)
    assert abs(figures.credit.own) < 3 / np.sqrt(figures.credit.count)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report.html"
    own = tmp_path / "mine.yaml"
    own.write_text("terms: [{term: ttft}]\n")
    flags = ["--requests", "120", "--seeds", "1", "--members", "2", "--qps", "20", "--output", str(output)]
    assert main(["--reward", "legacy", str(own), *flags]) == 0
    printed = capsys.readouterr().out
    for name in ("round_robin", "random", "lor", "least_tokens", "lookahead"):
        assert len(re.findall(rf"^{name} ", printed, re.MULTILINE)) == 2
    assert "Reward legacy" in printed and "Reward mine" in printed and printed.count("Tells better from worse:") == 2
    assert max(map(len, printed.splitlines())) <= 140
    _, charts = page_and_charts(output)
    assert len(charts) == 10
    first = output.read_text()
    assert main(["--reward", "legacy", str(own), *flags]) == 0
    assert output.read_text() == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--reward", "legcy"],
            "unknown --reward (a name in data/rewards, or a YAML file) 'legcy': did you mean legacy",
        ),
        (["--schedulers", "lorr"], "unknown --schedulers 'lorr': did you mean lor?"),
        (["--seed", "2"], "unknown argument --seed: did you mean --seeds?"),
        (["--qps", "0"], "--qps must be above 0"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: No such file"),
    ],
)
def test_bad_flags_are_refused_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("rl.reward_report: error: ")
    assert printed.err.count("\n") == 1 and not printed.out


def test_requests_of_a_trace_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.yaml"
    trace.write_text("request_generator_config: {type: trace_replay}\n")
    assert main(["--config", str(trace)]) == 2
    assert "needs synthetic requests" in capsys.readouterr().err
