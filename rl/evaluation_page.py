"""report.html of an evaluation."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from rl.baselines import HEURISTICS, LEAST_TOKENS
from rl.evaluation_results import Results, ScenarioResults, thresholds_text
from rl.evaluation_targets import MET, targets
from rl.report_page import Page, cards, paragraphs
from vidur.compare.figures import metric_title, value_text
from vidur.metrics.report import table
from vidur.metrics.report_charts import COLORS, Chart, axis

_METRICS = ("mean_e2e", "p50_e2e", "p99_e2e", "mean_ttft", "p99_ttft", "long_p99_ttft", "mean_tpot", "goodput",
            "preemptions")  # fmt: skip
_DRAWN = ("mean_e2e", "p99_ttft", "goodput")
# Differences beyond this, in percent, have the strongest colour.
_LIMIT = 30.0
_TIES = [[0, "#15803d"], [0.5, "#f1f5f9"], [1, "#b91c1c"]]


def write_page_of_results(path: Path, results: Results) -> None:
    """The page: targets, differences from least_tokens, a matrix of all routers, and the figures of each scenario."""
    found = targets(results)
    page = Page(
        "The learned router and the heuristics",
        [
            ("Command", results.command),
            ("Policy", f"{results.policy}, SHA-256 {results.policy_hash[:16]}"),
            ("Seeds", f"{results.seeds[0]} to {results.seeds[-1]}, {results.requests:,} requests each"),
        ],
    )
    met = sum(target.state == MET for target in found)
    page.add(cards([
        ("Targets met", f"{met} of {len(found)}", "see below"),
        ("Scenarios", f"{len(results.scenarios)}", f"{len(results.scenarios[0].routers)} routers in each"),
    ]))  # fmt: skip
    page.add_section("Difference from least_tokens", [_differences(results, metric) for metric in _DRAWN])
    rows = [
        [html.escape(target.verdict), html.escape(target.text),
         "<br>".join(html.escape(f"{check.scenario}: {check.text}") for check in target.failed)]
        for target in found
    ]  # fmt: skip
    page.add_section("Targets", before=table(["", "Target", "Where not"], rows, num_texts=3) if rows else "")
    page.add_section("All routers", [_matrix(results, metric) for metric in _DRAWN])
    for its in results.scenarios:
        page.add_section(f"{its.scenario.name}: {its.scenario.header.title}", before=_figures(its))
    page.write(path)


def _differences(results: Results, metric: str) -> Chart:
    """A point and its interval for the best heuristic and for the learned router at each beta."""
    names = [its.scenario.name for its in results.scenarios]
    traces: list[dict[str, Any]] = []
    for place, router in enumerate(["best heuristic", *results.ppo]):
        found = [
            its.difference(router if place else its.best(metric), LEAST_TOKENS, metric) for its in results.scenarios
        ]
        traces.append({
            "type": "scatter",
            "mode": "markers",
            "name": router,
            "x": names,
            "y": [round(one.mean, 2) for one in found],
            "error_y": {"type": "data", "array": [round(one.half, 2) for one in found], "thickness": 1.4, "width": 3},
            "marker": {"size": 8, "color": COLORS[place - 1] if place else "#94a3b8",
                       "symbol": "circle" if place else "diamond"},
            "text": ["" if place else its.best(metric) for its in results.scenarios],
        })  # fmt: skip
    layout = {"xaxis": axis(type="category"), "yaxis": axis("percent"), "scattermode": "group", "scattergap": 0.6}
    note = "percent, with 95 % intervals" + ("; higher is better" if metric == "goodput" else "; lower is better")
    return Chart(metric_title(metric), note, traces, layout, height=380, is_wide=True)


def _matrix(results: Results, metric: str) -> Chart:
    """Paired differences from least_tokens: green is better, ties are grey."""
    routers = [router for router in results.scenarios[0].routers if router != LEAST_TOKENS]
    sign = -1.0 if metric == "goodput" else 1.0
    shades, texts = [], []
    for router in routers:
        found = [its.difference(router, LEAST_TOKENS, metric) for its in results.scenarios]
        shades.append([0.0 if one.verdict == "tie" else max(-_LIMIT, min(_LIMIT, sign * one.mean)) for one in found])
        texts.append([f"{one.mean:+.1f}" for one in found])
    trace = {
        "type": "heatmap",
        "x": [its.scenario.name for its in results.scenarios],
        "y": routers,
        "z": shades,
        "text": texts,
        "texttemplate": "%{text}",
        "zmin": -_LIMIT,
        "zmax": _LIMIT,
        "colorscale": _TIES,
        "showscale": False,
        "hovertemplate": "%{y}, %{x}: %{text} %<extra></extra>",
    }
    layout = {"xaxis": axis(type="category"), "yaxis": axis(autorange="reversed"), "margin": {"l": 150}}
    note = f"percent from {LEAST_TOKENS}; green better, red worse, grey a tie"
    return Chart(metric_title(metric), note, [trace], layout, height=90 + 26 * len(routers), is_wide=True)


def _figures(its: ScenarioResults) -> str:
    scenario = its.scenario
    rows = []
    for router in its.routers:
        cells = []
        for metric in _METRICS:
            text = value_text(metric, its.mean(router, metric))
            if router != LEAST_TOKENS and metric in _DRAWN:
                text += f" ({its.difference(router, LEAST_TOKENS, metric)})"
            cells.append(f"<b>{text}</b>" if router == its.best(metric) else text)
        rows.append([router if router in HEURISTICS else f"<b>{html.escape(router)}</b>", *cells])
    facts = (
        f"{scenario.rate:.1f} requests/s of {scenario.capacity:.1f}; objectives: TTFT "
        f"{value_text('ttft', scenario.header.ttft)}, TPOT {value_text('tpot', scenario.header.tpot)}; size_split at "
        f"{thresholds_text(its.thresholds)}. In bold the best heuristic; in brackets differences from {LEAST_TOKENS}."
    )
    return paragraphs([facts]) + table(["Router", *map(metric_title, _METRICS)], rows, num_texts=1)
