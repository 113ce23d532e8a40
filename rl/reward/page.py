"""The page of a reward report."""

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
    """Write the page: for each reward the tables, the distributions, the ranking, and rewards against costs."""
    page = Page("What rewards see", _facts(config, simulated))
    for figures in rewards:
        said = "".join(f"<dt>{markup(label)}</dt><dd>{markup(text)}</dd>" for label, text in facts(figures))
        table = Table(HEADINGS, rows(figures), title=figures.reward)
        page.add_section(figures.reward, table, Markup(f"<dl>{said}</dl>"), *_charts(figures, episodes))
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
        _distribution(figures, "raw", "the weighted terms, added up"),
        _distribution(figures, "scaled", "divided by the scale, normalised"),
        _distribution(figures, "clipped", "what the learner gets"),
        _ranking(figures),
        _against_cost(figures, episodes),
    ]


def _distribution(figures: RewardFigures, stage: str, note: str) -> Chart:
    """A curve for each scheduler: percent of its decisions in bins of the middle 99 %, what is beyond in the outer."""
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
    """Mean reward by mean E2E, with the ceiling."""
    points: list[Trace] = [
        {
            "type": "scatter", "mode": "markers", "x": [own.mean_e2e], "y": [float(own.clipped.mean())],
            "marker": {"size": 10, "color": color}, "name": own.scheduler,
        }
        for own, color in zip(figures.schedulers, COLORS, strict=False)
    ]  # fmt: skip
    ends = [
        min(own.mean_e2e for own in figures.schedulers),
        max(own.mean_e2e for own in figures.schedulers),
    ]
    points.append(line(ends, [figures.ceiling] * 2, "ceiling", FAINT))
    note = "mean clipped reward by mean E2E: it should fall"
    return Chart("Ranking", note, points, {"xaxis": axis("mean E2E (s)"), "yaxis": axis("mean clipped reward")})


def _against_cost(figures: RewardFigures, episodes: Sequence[RoutedEpisode]) -> Chart:
    """Of random choices: the clipped reward by what the choice was worth."""
    own = next((own for own in figures.schedulers if own.scheduler == RANDOM), None)
    if own is None:
        return Chart("Worth of a choice", "the random scheduler is not among them", [], layout("", ""))
    worth = np.concatenate([episode.worth[episode.counted] for episode in episodes if episode.scheduler == RANDOM])
    chosen = np.linspace(0, len(worth) - 1, min(_POINTS, len(worth))).astype(np.int64)
    points = dots(worth[chosen], own.clipped[chosen])
    shown = {"xaxis": axis("cost of a random choice less that of this one"), "yaxis": axis("clipped reward")}
    return Chart("Worth of a choice", "of the random scheduler: it should rise", [points], shown)
