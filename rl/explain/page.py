"""The page that explains a policy."""

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


# What the figures are not.
_NOTE = (
    "These are single choices in the states that the policy itself brings about, judged as if no request came after "
    "them: another router would see other states. Compare whole runs with python -m rl.evaluate."
)


def write_page(path: Path, title: str, facts: Sequence[tuple[str, str]], findings: Findings) -> None:
    """Write the findings as charts and a table; facts: labels and texts at the head of the page."""
    page = Page(title, facts)
    page.add_cards(_cards(findings))
    page.add_section("What matters", _NOTE, *_what_matters(findings))
    kinds = [*findings.by_class, *findings.by_load]
    page.add_section("What it does differently", Table(CLASS_HEADINGS, class_rows(kinds)), *_what_differs(findings))
    curves = [chart for curve in findings.curves for chart in _curve(curve)]
    page.add_section("How it responds", *curves, _by_prompt(findings))
    page.add_section("Short and long prompts", *_specialisation(findings))
    page.add_section("Beta", *_beta_charts(findings))
    page.write(path)


def _what_matters(findings: Findings) -> list[Chart]:
    lost = "lost of its advantage over chance if it sees that of another state"
    many = "the same of each number that the encoder makes of them: many tell the same thing"
    return [
        _importances("What it sees, in groups", lost, findings.by_group),
        _importances("One by one", "the same of each quantity", findings.by_quantity),
        _importances("Features of the encoder", many, findings.by_feature[:_FEATURES], wide=True),
    ]


def _what_differs(findings: Findings) -> list[Chart]:
    charts = []
    for kind, classes in (("prompt", findings.by_class), ("load", findings.by_load)):
        same = "decisions in which the policy does the same as another scheduler"
        charts.append(
            _by_class(f"Agreement by {kind}", same, classes, "agreement", (LEAST_TOKENS, LOR, RANDOM), "decisions (%)")
        )
        waste = "0: best in hindsight, 100: chance; all in the policy's states"
        charts.append(_by_class(f"Waste by {kind}", waste, classes, "waste", (POLICY, LEAST_TOKENS, LOR), "waste (%)"))
    return charts


def _specialisation(findings: Findings) -> list[Chart]:
    title, spread = "To the replica with the longest requests", "The busiest replica of each class"
    three, two = (POLICY, LEAST_TOKENS, RANDOM), (POLICY, LEAST_TOKENS)
    even = "its requests over an equal share, each scheduler routing by itself; 1: evenly spread"
    return [
        _by_class(
            title,
            "decisions in the policy's states, by prompt",
            findings.by_class,
            "to_longest",
            three,
            "decisions (%)",
        ),
        _by_class(spread, even, findings.by_class, "busiest", two, "times an equal share"),
        _roles(findings, POLICY, "The policy's shares"),
        _roles(findings, LEAST_TOKENS, "Those of least_tokens"),
    ]


def _cards(findings: Findings) -> list[tuple[str, str, str]]:
    first = findings.by_group[0]
    made = [
        (f"Waste, {name}", f"{findings.waste[name]:.0f} %", "0: best in hindsight, 100: chance")
        for name in (POLICY, LEAST_TOKENS, LOR)
    ]
    made.append(("Agreement", f"{findings.agreement[LEAST_TOKENS]:.0f} %", "with least_tokens"))
    made.append(("Matters most", first.name, f"{first.lost:.0f} % lost without"))
    return made


def _importances(title: str, note: str, items: Sequence[Importance], wide: bool = False) -> Chart:
    """Bars from the greatest down; what loses nothing is left out."""
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
    """A bar for each scheduler in each class."""
    traces: list[Trace] = []
    for name in schedulers:
        values: list[Mapping[str, float]] = [getattr(figures, figure) for figures in classes]
        traces.append(
            {
                "type": "bar",
                "x": [figures.name for figures in classes],
                "y": short([figures[name] for figures in values]),
                "name": "chance" if name == RANDOM else name,
                "marker": {"color": _COLOR[name]},
            }
        )
    x_title = (
        "requests a replica has, of the state" if "replica" in classes[0].name else "prompt of the arrival (tokens)"
    )
    return Chart(title, note, traces, {**layout(x_title, unit), "barmode": "group", "bargap": 0.25})


def _curve(curve: Curve) -> list[Chart]:
    name, unit = curve.quantity.name, curve.quantity.unit
    made = []
    for what, note, values, y in (
        ("score", "the policy's score of one replica above the others', if only this changed", curve.score, "score"),
        ("chosen", "how often that replica is chosen", curve.chosen, "states (%)"),
    ):
        x = short(curve.values)
        traces = [line(x, short(values[kind]), kind, color) for kind, color in ((SHORT, COLORS[0]), (LONG, COLORS[1]))]
        shown = {"xaxis": axis(f"{name} ({unit})"), "yaxis": axis(y)}
        made.append(Chart(f"{name.capitalize()}: {what}", note, traces, shown))
    return made


def _by_prompt(findings: Findings) -> Chart:
    response = findings.by_prompt
    traces = [
        line(short(response.prompts), short(values), name, color)
        for (name, values), color in zip(response.shares.items(), COLORS, strict=False)
    ]
    shown = {
        "xaxis": axis("prompt of the arrival (tokens)", type="log", dtick="D2"),
        "yaxis": axis("decisions (%)", rangemode="tozero"),
    }
    note = "the same states with an arrival of another length: decisions for the replica with the ..."
    return Chart("By the arrival's prompt", note, traces, shown, is_wide=True)


def _roles(findings: Findings, name: str, title: str) -> Chart:
    shares = findings.roles.shares[name]
    trace = heat_map(
        [f"{number + 1}" for number in range(shares.shape[1])],
        findings.roles.classes,
        [short(row, 3) for row in shares],
        float(np.ceil(max(values.max() for values in findings.roles.shares.values()))),
        "prompts %{y}: %{z:.0f} % to replica %{x}",
        colorbar={"title": {"text": "% of class"}},
        texttemplate="%{z:.0f}",
    )
    shown = {
        "xaxis": axis("replica, by the mean prompt that it gets", showgrid=False, dtick=1),
        "yaxis": axis(showgrid=False, automargin=True),
        "margin": {"l": 130},
    }
    return Chart(title, f"of each prompt class, on {findings.roles.cluster}, routing by itself", [trace], shown)


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

    shares = {"to the least to read": effect.least_backlog, "as least_tokens": effect.as_least_tokens}
    return [
        chart("Decisions", "the same states, at another beta", "decisions (%)", shares),
        chart("What a decision adds to TTFT", "of all requests together, mean", "seconds", {"TTFT": effect.ttft}),
        chart("What a decision adds to E2E", "of all requests together, mean", "seconds", {"E2E": effect.e2e}),
    ]
