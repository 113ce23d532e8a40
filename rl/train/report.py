"""python -m rl.training_report FOLDER: write report.html of a training run, also while it is running."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.train.log import QUANTILES, clone_table, read_log
from vidur.config.command_line import FlagParser
from vidur.metrics.text import in_seconds, significant
from vidur.report import Chart, Page, Table
from vidur.report.chart import ACCENT, COLORS, FAINT, Trace, axis, layout, line, short
from vidur.tool import run_tool

REPORT = "report.html"

_DECISIONS = "decisions"
_VS = "_vs_"
_METRICS = {"mean_e2e": "Mean E2E", "mean_ttft": "Mean TTFT", "p99_ttft": "p99 TTFT"}
_RATIOS = {"cost": ("Cost", "the objective of training, relative to least_tokens")}
_TERM = "reward/term/"

# (name, title, note)
_LOSSES = (
    ("losses/policy_loss", "Policy loss", "negated clipped surrogate: noise around 0 is normal"),
    ("losses/value_loss", "Value loss", "squared error of the critic, in scaled returns"),
    ("losses/explained_variance", "Explained variance", "of the returns by the critic: 1 is perfect, 0 is none"),
    ("losses/entropy", "Entropy", "of the policy, in nats: it falls as the policy becomes deterministic"),
    ("losses/approx_kl", "Approximate KL", "change of the policy in one update"),
    ("losses/clipfrac", "Clip fraction", "decisions whose probability ratio left the clip range"),
    ("losses/kl_to_reference", "KL to the reference", "distance from the policy at the start of PPO"),
)
_SPEED = (
    ("charts/SPS", "Speed", "decisions per second, simulated and learned from"),
    ("charts/learning_rate", "Learning rate", "of Adam"),
)
_UNITS = {"charts/SPS": "decisions per second", "losses/entropy": "entropy (nats)"}
_STAGES = {
    "reward/raw": ("Raw reward", "sum of the weighted terms"),
    "reward/scaled": ("Scaled reward", "after scaling and normalisation"),
    "reward/clipped": ("Clipped reward", "the reward that the learner gets"),
}
_ACTIONS = "policy/action_distribution"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and return the exit status."""
    return run_tool("rl.training_report", _parse, lambda folder: print(write_training_report(folder)), argv)


def _parse(argv: Sequence[str] | None) -> tuple[Path]:
    parser = FlagParser(prog="python -m rl.training_report", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", help="folder of a training run, with its log.jsonl")
    return (Path(parser.parse_args(argv).folder),)


def write_training_report(folder: Path) -> Path:
    """Write report.html from the log in `folder`, and return its path. Raises InputError if there is no log."""
    hyperparameters, rows = read_log(folder)
    page = Page(f"Training {folder.resolve().name}", _facts(rows, hyperparameters))
    page.add_cards(_cards(rows))
    for row in rows:
        if "clone" in row:
            page.add_section("Cloned before PPO", *_clone(row["clone"]))
    if curves := _learning_curves(rows):
        page.add_section("Against schedulers that do not learn", *curves)
    page.add_section("Learning", *(_curve(rows, *item) for item in _LOSSES))
    page.add_section("Reward", *_reward_charts(rows), _clipped(rows), *_terms(rows))
    page.add_section("Decisions", *_action_charts(rows))
    page.add_section("Speed", *(_curve(rows, *item) for item in _SPEED))
    if hyperparameters:
        rows_of_table = [[name, str(value)] for name, value in sorted(hyperparameters.items())]
        page.add_section("Hyper-parameters", Table(["Name", "Value"], rows_of_table, num_texts=2))
    path = folder / REPORT
    page.write(path)
    return path


def _facts(rows: Sequence[Mapping[str, Any]], hyperparameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    last = rows[-1]["step"] if rows else 0
    updates = sum("scalars" in row for row in rows)
    facts = [("Decisions", f"{last:,} in {updates:,} updates")]
    facts += [
        (name.capitalize(), str(hyperparameters[name]))
        for name in ("suite", "reward", "seed")
        if name in hyperparameters
    ]
    return facts


def _cards(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the latest of the most important figures."""
    cards = []
    for scenario, metric in _evaluated(rows):
        steps, values = _evaluation(rows, scenario, metric)
        name, _, baseline = metric.partition(_VS)
        title = f"{_METRICS.get(name, name)}, {scenario}"
        if baseline:
            sign = "+" if values[-1] > 0 else ""
            cards.append((title, f"{sign}{100 * values[-1]:.1f} %", f"against {baseline}"))
        elif name in _METRICS:
            cards.append((title, in_seconds(values[-1]), f"after {steps[-1]:,} decisions"))
    for name, label, note in (
        ("reward/raw", "Reward", "raw, mean of the last update"),
        ("losses/entropy", "Entropy", "nats"),
        ("losses/explained_variance", "Explained variance", "of the critic"),
        ("charts/SPS", "Speed", "decisions/s, last update"),
    ):
        _, values = _scalar(rows, name)
        if values:
            cards.append((label, significant(values[-1]), note))
    return cards


def _learning_curves(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Draw each scenario and metric relative to the baselines, or its value if it was not compared."""
    charts: list[Chart] = []
    evaluated = _evaluated(rows)
    for scenario in dict.fromkeys(scenario for scenario, _ in evaluated):
        metrics = [metric for own, metric in evaluated if own == scenario]
        for metric in (metric for metric in metrics if _VS not in metric):
            label = _METRICS.get(metric, metric)
            relative = [other for other in metrics if other.startswith(metric + _VS)]
            charts.append(_against(rows, scenario, label, relative) if relative else _absolute(rows, scenario, metric))
    return charts


def _against(rows: Sequence[Mapping[str, Any]], scenario: str, label: str, metrics: Sequence[str]) -> Chart:
    """Draw a line for each baseline, which itself is at 0."""
    traces = []
    last = 0
    for metric, color in zip(metrics, COLORS, strict=False):
        steps, values = _evaluation(rows, scenario, metric)
        last = max(last, steps[-1])
        percents = short([100 * value for value in values])
        traces.append(line(steps, percents, f"against {metric.partition(_VS)[2]}", color, mode="lines+markers"))
    dotted = {"line": {"color": FAINT, "width": 1, "dash": "dot"}, "showlegend": False, "hoverinfo": "skip"}
    traces.append(line([0, last], [0, 0], "equal", FAINT, **dotted))
    return Chart(label, f"{scenario}, fixed seeds: below 0 the policy is better", traces, _axes("difference (%)"))


def _absolute(rows: Sequence[Mapping[str, Any]], scenario: str, metric: str) -> Chart:
    title, note = _RATIOS.get(metric, (_METRICS.get(metric, metric), "fixed seeds"))
    steps, values = _evaluation(rows, scenario, metric)
    trace = line(steps, short(values), title, ACCENT, mode="lines+markers")
    axes = _axes(f"{title} (s)" if metric in _METRICS else title.lower())
    return Chart(title, f"{scenario}: {note}", [trace], axes)


def _axes(y: str) -> dict[str, Any]:
    return {"xaxis": axis(_DECISIONS, rangemode="tozero"), "yaxis": axis(y)}


def _curve(rows: Sequence[Mapping[str, Any]], name: str, title: str, note: str) -> Chart:
    """Draw the value of each update as a faint line, with a running mean on top."""
    steps, values = _scalar(rows, name)
    axes = _axes(_UNITS.get(name, title.lower()))
    if len(values) < 40:
        return Chart(title, note, [line(steps, short(values), title, ACCENT, mode="lines+markers")], axes)
    updates = line(steps, short(values), "each update", f"{ACCENT}/0.35", showlegend=False)
    mean = line(steps, short(_smooth(values)), "running mean", ACCENT, showlegend=False)
    return Chart(title, note, [updates, mean], axes)


def _smooth(values: Sequence[float]) -> list[float]:
    """Return an exponential moving average over about a sixtieth of the run, unbiased at its beginning."""
    keep = 1 - 1 / max(len(values) / 60, 2)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _reward_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    return [_fan(rows, name, title, note, "reward") for name, (title, note) in _STAGES.items()]


def _fan(rows: Sequence[Mapping[str, Any]], name: str, title: str, note: str, unit: str) -> Chart:
    """Draw a distribution over the training: bands from p1 to p99, p5 to p95 and p25 to p75, median and mean."""
    points = [(row["step"], row["histograms"][name]) for row in rows if name in row.get("histograms", {})]
    steps = [step for step, _ in points]

    def quantile(percent: int) -> list[float | None]:
        return short([own["quantiles"][QUANTILES.index(percent)] for _, own in points])

    traces: list[Trace] = []
    for low, high, opacity in ((1, 99, 0.10), (5, 95, 0.16), (25, 75, 0.28)):
        edge = {"line": {"width": 0}, "hoverinfo": "skip"}
        traces.append(line(steps, quantile(low), f"p{low}", ACCENT, showlegend=False, **edge))
        band = {"fill": "tonexty", "fillcolor": f"{ACCENT}/{opacity}"}
        traces.append(line(steps, quantile(high), f"p{low} to p{high}", ACCENT, **edge, **band))
    traces.append(line(steps, quantile(50), "median", ACCENT))
    traces.append(line(steps, short([own["mean"] for _, own in points]), "mean", COLORS[1]))
    return Chart(title, note, traces, _axes(unit))


def _clipped(rows: Sequence[Mapping[str, Any]]) -> Chart:
    traces = []
    for name, label, color in (
        ("reward/clipped_share_low", "at the lower bound", COLORS[1]),
        ("reward/clipped_share_high", "at the upper bound", COLORS[2]),
    ):
        steps, values = _scalar(rows, name)
        traces.append(line(steps, short([100 * value for value in values]), label, color))
    return Chart("Clipped share", "decisions whose reward is clipped", traces, layout(_DECISIONS, "decisions (%)"))


def _terms(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Draw the mean of each weighted term, if the reward has several."""
    names = sorted({name for row in rows for name in row.get("scalars", {}) if name.startswith(_TERM)})
    if len(names) < 2:
        return []
    traces = []
    for name, color in zip(names, COLORS, strict=False):
        steps, values = _scalar(rows, name)
        traces.append(line(steps, short(_smooth(values)), name.removeprefix(_TERM), color))
    return [Chart("Terms of the reward", "weighted, running means", traces, _axes("mean reward"))]


def _action_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    note = "decisions per replica over the mean of its simulation; bands over replicas and simulations"
    charts = [_fan(rows, _ACTIONS, "Shares of the replicas", note, "relative share")]
    note = "mean over the decisions: 1 is a policy that does not explore"
    greatest = _curve(rows, "policy/max_probability", "Greatest probability", note)
    return [*charts, *([greatest] if greatest.has_data else [])]


def _clone(cloned: Mapping[str, Any]) -> tuple[str, Table]:
    headings, *lines = clone_table(cloned)
    note = "Costs are above the best choice's, in the demonstrator's held-out states."
    return note, Table(headings, lines)


def _scalar(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Return the steps that have this scalar, and its values."""
    points = [(row["step"], row["scalars"][name]) for row in rows if row.get("scalars", {}).get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _evaluated(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (scenario, metric) of all evaluations, in order of appearance."""
    return list(
        dict.fromkeys(
            (scenario, metric)
            for row in rows
            for scenario, figures in row.get("evaluation", {}).items()
            for metric, value in figures.items()
            if value is not None
        )
    )


def _evaluation(rows: Iterable[Mapping[str, Any]], scenario: str, metric: str) -> tuple[list[int], list[float]]:
    points = [(row["step"], row.get("evaluation", {}).get(scenario, {}).get(metric)) for row in rows]
    return [step for step, value in points if value is not None], [value for _, value in points if value is not None]


if __name__ == "__main__":
    sys.exit(main())
