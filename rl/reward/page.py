"""Draw the page of a reward report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl.reward.study import RANDOM, RewardFigures, RoutedEpisode
from rl.reward.verdict import HEADINGS, facts, rows
from vidur.config import SimulationConfig
from vidur.report import Chart, Markup, Page, Table
from vidur.report.chart import COLORS, FAINT, Floats, Trace, axis, dots, layout, line, short
from vidur.report.markup import markup

if TYPE_CHECKING:
    from rl.reward.report import RewardReportConfig

_BINS = 40
_POINTS = 1500


def write_reward_page(
    path: Path,
    config: RewardReportConfig,
    simulated: SimulationConfig,
    rewards: Sequence[RewardFigures],
    episodes: Sequence[RoutedEpisode],
) -> None:
    """Write for each reward its tables, distributions, ranking, and rewards against costs."""
    page = Page("Reward report", _facts(config, simulated))
    for figures in rewards:
        terms = "".join(f"<dt>{markup(label)}</dt><dd>{markup(text)}</dd>" for label, text in facts(figures))
        table = Table(HEADINGS, rows(figures), title=figures.reward)
        page.add_section(figures.reward, table, Markup(f"<dl>{terms}</dl>"), *_charts(figures, episodes))
    page.write(path)


def _facts(config: RewardReportConfig, simulated: SimulationConfig) -> list[tuple[str, str]]:
    cluster = simulated.cluster_config
    load = "" if config.qps is None else f", {config.qps:g} requests/s"
    return [
        ("Cluster", f"{cluster.num_replicas} replicas of {cluster.replica_config.model_name}{load}"),
        ("Simulations", f"{config.seeds} seeds of {config.requests:,} requests; random {config.members} times each"),
        ("Objective", f"beta {config.beta:g}; schedules at progress {config.progress:g}"),
    ]


def _charts(figures: RewardFigures, episodes: Sequence[RoutedEpisode]) -> list[Chart]:
    return [
        _distribution(figures, "raw", "sum of the weighted terms"),
        _distribution(figures, "scaled", "divided by the scale, and normalised"),
        _distribution(figures, "clipped", "the reward that the learner gets"),
        _ranking(figures),
        _against_cost(figures, episodes),
    ]


def _distribution(figures: RewardFigures, stage: str, note: str) -> Chart:
    """Draw each scheduler's histogram over the middle 99 % of all rewards; the outer bins count the rest."""
    pooled = np.concatenate([getattr(own, stage) for own in figures.schedulers])
    low, high = np.percentile(pooled, [0.5, 99.5])
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    traces = [
        line(short(middles), short(_shares(getattr(own, stage), edges)), own.scheduler, color)
        for own, color in zip(figures.schedulers, COLORS, strict=False)
    ]
    return Chart(stage.capitalize(), note, traces, layout("reward", "decisions (%)"))


def _shares(values: Floats, edges: Floats) -> Floats:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares: Floats = 100 * counts / max(len(values), 1)
    return shares


def _ranking(figures: RewardFigures) -> Chart:
    """Draw each scheduler's mean reward over its mean E2E, and the ceiling."""
    points: list[Trace] = [
        {
            "type": "scatter", "mode": "markers", "x": [own.mean_e2e], "y": [float(own.clipped.mean())],
            "marker": {"size": 10, "color": color}, "name": own.scheduler,
        }
        for own, color in zip(figures.schedulers, COLORS, strict=False)
    ]  # fmt: skip
    e2e = [own.mean_e2e for own in figures.schedulers]
    points.append(line([min(e2e), max(e2e)], [figures.ceiling] * 2, "ceiling", FAINT))
    note = "mean clipped reward over mean E2E: it should fall"
    return Chart("Ranking", note, points, {"xaxis": axis("mean E2E (s)"), "yaxis": axis("mean clipped reward")})


def _against_cost(figures: RewardFigures, episodes: Sequence[RoutedEpisode]) -> Chart:
    """Draw the clipped rewards of random choices over their advantage."""
    own = next((own for own in figures.schedulers if own.scheduler == RANDOM), None)
    if own is None:
        return Chart("Advantage of a choice", "needs the random scheduler", [], layout("", ""))
    advantages = np.concatenate([ep.advantages[ep.counted] for ep in episodes if ep.scheduler == RANDOM])
    chosen = np.linspace(0, len(advantages) - 1, min(_POINTS, len(advantages))).astype(np.int64)
    points = dots(advantages[chosen], own.clipped[chosen])
    axes = {"xaxis": axis("mean cost of all choices - cost of this choice"), "yaxis": axis("clipped reward")}
    return Chart("Advantage of a choice", "of the random scheduler: it should rise", [points], axes)
