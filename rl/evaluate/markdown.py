"""Write the results as Markdown, without dates or machine, so that the same command gives the same text."""

from __future__ import annotations

from pathlib import Path

from rl.evaluate.chart import chart_svg
from rl.evaluate.results import BLIND, LEAST_TOKENS, EvaluationResults, ppo_name, thresholds_text
from rl.evaluate.targets import MEAN_BETA, TAIL_BETA, targets
from vidur.atomic import write_text
from vidur.compare.figures import LONG_PROMPT, WARM_UP, metric_title, value_text
from vidur.compare.markdown import markdown_table as _table
from vidur.compare.tuning import TUNING_SEEDS
from vidur.metrics.text import percent, significant


def write_markdown(path: Path, results: EvaluationResults) -> None:
    """Write `path`, and its chart beside it."""
    chart = path.with_suffix(".svg")
    write_text(chart, chart_svg(results))
    write_text(path, markdown(results, chart.name))


def markdown(results: EvaluationResults, chart: str) -> str:
    """Return the page. chart: the file name of its chart."""
    parts = [
        "# The learned router and the heuristics",
        _introduction(results),
        *_titled("## In short", short_table(results)),
        f"![Differences of mean E2E and p99 TTFT from {LEAST_TOKENS}, by scenario]({chart})",
        "## Targets",
        _targets(results),
    ]
    if results.default_beta in results.betas:
        parts += _titled(f"## Against {' and '.join(BLIND)}, beta {results.default_beta:g}", _blind_table(results))
    for metric in ("mean_e2e", "p99_ttft", "goodput"):
        unit = "requests/s" if metric == "goodput" else "s"
        parts += _titled(f"## Every router: {metric_title(metric)} ({unit})", _metric_table(results, metric))
    parts += _titled("## The scenarios", _scenario_table(results))
    return "\n\n".join(parts) + "\n"


def short_table(results: EvaluationResults) -> str:
    """Return a table of each scenario's best heuristic and the learned router; empty without the targets' betas."""
    pairs = [
        (metric, beta) for metric, beta in (("mean_e2e", MEAN_BETA), ("p99_ttft", TAIL_BETA)) if beta in results.betas
    ]
    headings = ["scenario"]
    for metric, beta in pairs:
        headings += [f"best {metric_title(metric)}", f"`ppo`, beta {beta:g}", "difference"]
    rows = []
    for point in results.scenarios:
        cells = [f"`{point.scenario.name}`: {point.scenario.title}"]
        for metric, beta in pairs:
            best, name = point.best(metric), ppo_name(beta)
            cells += [
                f"{value_text(metric, point.mean(best, metric))} `{best}`",
                value_text(metric, point.mean(name, metric)),
                str(point.difference(name, best, metric)),
            ]
        rows.append(cells)
    return _table(headings, rows) if pairs else ""


def _introduction(results: EvaluationResults) -> str:
    seeds = f"{results.seeds[0]} to {results.seeds[-1]}"
    return (
        f"Made by `{results.command}` from the policy `{results.policy}` (SHA-256 `{results.policy_hash[:16]}`): "
        f"{len(results.seeds)} seeds, {seeds}; {results.requests:,} requests each, in proportion more on clusters of "
        "more than four replicas. In a scenario every router gets the same arrivals and lengths, and gauges that are "
        f"up to 1 s old. The first and the last {percent(WARM_UP, 0)} of the requests are left out.\n\n"
        "A difference is that of the means over the seeds, in percent of the baseline's, ± half of its 95 % interval "
        "(paired by seed; ratio estimator, Student's t). The best heuristic of a metric is the one with the best mean "
        "over these very seeds, which favours it a little. `size_split` has thresholds tuned for each scenario, on "
        f"seeds {', '.join(map(str, TUNING_SEEDS))}."
    )


def _targets(results: EvaluationResults) -> str:
    lines = []
    for target in targets(results):
        lines.append(f"- **{target.verdict}**: {target.text}")
        lines += [f"  - `{check.scenario}`: {check.text}" for check in target.failed]
    note = "Open: better in the mean, or equal, but the interval holds 0."
    return "\n".join([*lines, "", note]) if lines else "None of the targets' betas was evaluated."


def _blind_table(results: EvaluationResults) -> str:
    name = ppo_name(results.default_beta)
    metrics = ("mean_e2e", "p99_ttft", "goodput")
    headings = ["scenario", *(f"{metric_title(metric)}, `{baseline}`" for baseline in BLIND for metric in metrics)]
    headings.append(f"p99 TTFT over {LONG_PROMPT:,} tokens, times `{LEAST_TOKENS}`")
    rows = []
    for point in results.scenarios:
        cells = [str(point.difference(name, baseline, metric)) for baseline in BLIND for metric in metrics]
        rows.append([f"`{point.scenario.name}`", *cells, f"{point.ratio(name, LEAST_TOKENS, 'long_p99_ttft'):.2f}"])
    return _table(headings, rows)


def _metric_table(results: EvaluationResults, metric: str) -> str:
    """Return a table of each router's mean in every scenario, with the best heuristic's in bold."""
    names = [point.scenario.name for point in results.scenarios]
    rows = []
    for router in results.scenarios[0].routers:
        cells = []
        for point in results.scenarios:
            text = significant(point.mean(router, metric))
            cells.append(f"**{text}**" if router == point.best(metric) else text)
        rows.append([f"`{router}`", *cells])
    return _table(["router", *(f"`{name}`" for name in names)], rows)


def _scenario_table(results: EvaluationResults) -> str:
    headings = ["scenario", "what", "capacity", "arrivals", "goodput: TTFT", "TPOT", "`size_split` at",
                f"preemptions, `{LEAST_TOKENS}`"]  # fmt: skip
    rows = []
    for point in results.scenarios:
        scenario = point.scenario
        rows.append([
            f"`{scenario.name}`",
            scenario.title,
            f"{scenario.capacity:.1f} /s",
            f"{scenario.rate:.1f} /s",
            value_text("ttft", scenario.header.ttft),
            value_text("tpot", scenario.header.tpot),
            thresholds_text(point.thresholds),
            significant(point.mean(LEAST_TOKENS, "preemptions")),
        ])  # fmt: skip
    note = "The capacity is the greatest rate that the cluster keeps up with under `least_tokens` (docs/compare.md)."
    return f"{_table(headings, rows)}\n\n{note} The files are in `data/scenarios`."


def _titled(title: str, text: str) -> list[str]:
    return [title, text] if text else []
