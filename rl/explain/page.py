"""Draw the page that explains a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rl.explain.choices import LEAST_TOKENS, LOR, POLICY, RANDOM
from rl.explain.findings import CLASS_HEADINGS, ClassFigures, Findings, class_rows
from rl.explain.sweeps import LONG, SHORT, Curve, Importance
from vidur.observation import Floats
from vidur.report import Chart, Page, Table
from vidur.report.chart import ACCENT, COLORS, FAINT, Trace, axis, heat_map, layout, line, short

_COLOR = {POLICY: COLORS[0], LEAST_TOKENS: COLORS[1], LOR: COLORS[2], RANDOM: FAINT}
_FEATURES = 18
_LEAST_SHOWN = 0.05
_PROMPT = "arriving prompt (tokens)"


_NOTE = (
    "These figures judge single choices, in states that the policy visits, as if no request arrived later. "
    "Another router would visit other states. Compare whole runs with python -m rl.evaluate."
)


def write_page(path: Path, title: str, facts: Sequence[tuple[str, str]], findings: Findings) -> None:
    """Write the findings as charts and a table. facts: (label, text) at the head of the page."""
    page = Page(title, facts)
    page.add_cards(_cards(findings))
    page.add_section("Importance of the inputs", _NOTE, *_importance_charts(findings))
    classes = Table(CLASS_HEADINGS, class_rows([*findings.by_class, *findings.by_load]))
    page.add_section("Differences from other schedulers", classes, *_difference_charts(findings))
    curves = [chart for curve in findings.curves for chart in _curve(curve)]
    page.add_section("Response to one input", *curves, _by_prompt(findings))
    page.add_section("Short and long prompts", *_specialisation(findings))
    page.add_section("Beta", *_beta_charts(findings))
    page.write(path)


def _importance_charts(findings: Findings) -> list[Chart]:
    lost = "share of its advantage over chance that the policy loses if the input is permuted over states"
    redundant = "the same for each feature of the encoder; many are redundant"
    return [
        _importances("Groups of inputs", lost, findings.by_group),
        _importances("Single inputs", "the same for each quantity", findings.by_quantity),
        _importances("Features of the encoder", redundant, findings.by_feature[:_FEATURES], wide=True),
    ]


def _difference_charts(findings: Findings) -> list[Chart]:
    agreement = "decisions in which the policy does the same as another scheduler"
    regret = "0: best in hindsight, 100: chance; all in the policy's states"
    charts = []
    for kind, classes in (("prompt", findings.by_class), ("load", findings.by_load)):
        others, routers = (LEAST_TOKENS, LOR, RANDOM), (POLICY, LEAST_TOKENS, LOR)
        charts += [
            _by_class(f"Agreement by {kind}", agreement, classes, "agreement", others, "decisions (%)"),
            _by_class(f"Regret by {kind}", regret, classes, "regret", routers, "regret (%)"),
        ]
    return charts


def _specialisation(findings: Findings) -> list[Chart]:
    longest, busiest = "To the replica with the longest requests", "The busiest replica of each class"
    by_prompt = "decisions in the policy's states, by prompt"
    relative = "its requests over an equal share, each scheduler in its own simulation; 1: evenly spread"
    three, two = (POLICY, LEAST_TOKENS, RANDOM), (POLICY, LEAST_TOKENS)
    return [
        _by_class(longest, by_prompt, findings.by_class, "to_longest", three, "decisions (%)"),
        _by_class(busiest, relative, findings.by_class, "busiest", two, "times an equal share"),
        _roles(findings, POLICY, "Shares of the policy"),
        _roles(findings, LEAST_TOKENS, "Shares of least_tokens"),
    ]


def _cards(findings: Findings) -> list[tuple[str, str, str]]:
    first = findings.by_group[0]
    cards = [
        (f"Regret, {name}", f"{findings.regret[name]:.0f} %", "0: best in hindsight, 100: chance")
        for name in (POLICY, LEAST_TOKENS, LOR)
    ]
    cards.append(("Agreement", f"{findings.agreement[LEAST_TOKENS]:.0f} %", "with least_tokens"))
    cards.append(("Most important", first.name, f"{first.lost:.0f} % lost without it"))
    return cards


def _importances(title: str, note: str, items: Sequence[Importance], wide: bool = False) -> Chart:
    """Draw bars of the items that have any importance, the greatest on top."""
    shown = [item for item in items if abs(item.lost) >= _LEAST_SHOWN or item.changed >= _LEAST_SHOWN][::-1]
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": short([item.lost for item in shown]),
        "y": [item.name for item in shown],
        "marker": {"color": ACCENT},
        "customdata": [[round(item.changed, 1), item.note] for item in shown],
        "hovertemplate": "%{y}: %{x:.1f} % lost, %{customdata[0]} % of the decisions change"
        "<br>%{customdata[1]}<extra></extra>",
    }
    height = max(180, 90 + 24 * len(shown))
    return Chart(
        title, note, [trace],
        {"xaxis": axis("advantage lost (%)"), "yaxis": axis(automargin=True, showgrid=False), "margin": {"l": 190}},
        height=height, is_wide=wide,
    )  # fmt: skip


def _by_class(
    title: str, note: str, classes: Sequence[ClassFigures], figure: str, schedulers: Sequence[str], unit: str
) -> Chart:
    """Draw a bar for each scheduler in each class."""
    values: list[Mapping[str, float]] = [getattr(figures, figure) for figures in classes]
    traces: list[Trace] = [
        {
            "type": "bar",
            "x": [figures.name for figures in classes],
            "y": short([figures[name] for figures in values]),
            "name": "chance" if name == RANDOM else name,
            "marker": {"color": _COLOR[name]},
        }
        for name in schedulers
    ]
    x_title = "requests per replica" if "replica" in classes[0].name else _PROMPT
    return Chart(title, note, traces, {**layout(x_title, unit), "barmode": "group", "bargap": 0.25})


def _curve(curve: Curve) -> list[Chart]:
    name, unit = curve.quantity.name, curve.quantity.unit
    charts = []
    for what, note, values, y in (
        ("score", "one replica's score above the others', if only this input changed", curve.score, "score"),
        ("chosen", "how often that replica is chosen", curve.chosen, "states (%)"),
    ):
        x = short(curve.values)
        traces = [line(x, short(values[kind]), kind, color) for kind, color in ((SHORT, COLORS[0]), (LONG, COLORS[1]))]
        axes = {"xaxis": axis(f"{name} ({unit})"), "yaxis": axis(y)}
        charts.append(Chart(f"{name.capitalize()}: {what}", note, traces, axes))
    return charts


def _by_prompt(findings: Findings) -> Chart:
    response = findings.by_prompt
    traces = [
        line(short(response.prompts), short(values), name, color)
        for (name, values), color in zip(response.shares.items(), COLORS, strict=False)
    ]
    axes = {
        "xaxis": axis(_PROMPT, type="log", dtick="D2"),
        "yaxis": axis("decisions (%)", rangemode="tozero"),
    }
    note = "the same states with another arriving prompt: decisions for the replica with the ..."
    return Chart("By arriving prompt", note, traces, axes, is_wide=True)


def _roles(findings: Findings, name: str, title: str) -> Chart:
    shares = findings.roles.shares[name]
    trace = heat_map(
        [f"{i + 1}" for i in range(shares.shape[1])],
        findings.roles.classes,
        [short(row, 3) for row in shares],
        float(np.ceil(max(values.max() for values in findings.roles.shares.values()))),
        "prompts %{y}: %{z:.0f} % to replica %{x}",
        colorbar={"title": {"text": "% of class"}},
        texttemplate="%{z:.0f}",
    )
    axes = {
        "xaxis": axis("replica, by the mean prompt that it gets", showgrid=False, dtick=1),
        "yaxis": axis(showgrid=False, automargin=True),
        "margin": {"l": 130},
    }
    return Chart(title, f"of each prompt class, on {findings.roles.cluster}, in its own simulation", [trace], axes)


def _beta_charts(findings: Findings) -> list[Chart]:
    effect = findings.by_beta
    x: list[float] = list(effect.betas)
    logarithmic = axis("beta", type="log", tickvals=x)

    def chart(title: str, note: str, unit: str, lines: Mapping[str, Floats]) -> Chart:
        traces = [
            line(x, short(values), name, color, mode="lines+markers")
            for (name, values), color in zip(lines.items(), COLORS, strict=False)
        ]
        return Chart(title, note, traces, {"xaxis": logarithmic, "yaxis": axis(unit)})

    shares = {"to the least backlog": effect.least_backlog, "as least_tokens": effect.as_least_tokens}
    growth = "mean growth of the sum over all requests"
    return [
        chart("Decisions", "the same states, at another beta", "decisions (%)", shares),
        chart("Effect of a decision on TTFT", growth, "seconds", {"TTFT": effect.ttft}),
        chart("Effect of a decision on E2E", growth, "seconds", {"E2E": effect.e2e}),
    ]
