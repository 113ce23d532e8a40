"""Write report.html of a sweep, one file that works offline."""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidur.compare.console import notes
from vidur.compare.figures import (
    HIGHER_IS_BETTER,
    TIMES,
    WARM_UP,
    is_share,
    metric_title,
    metric_unit,
    value_text,
)
from vidur.compare.record import PROBABILITIES, PROMPT_CLASSES, CellRecord
from vidur.compare.results import PointResults, Results
from vidur.metrics.text import percent, plural
from vidur.report import Markup, Page, Table
from vidur.report.chart import COLORS, HEAT, figure, short
from vidur.report.page import Part, command

# Most numbers in all load charts together; beyond this, later seeds have no chart.
_MOST_LOADS = 3_000_000


def write_report(path: Path, results: Results, sections: Sequence[tuple[str, Sequence[Part]]] = ()) -> None:
    """Write the page of a sweep. sections: additional ones after the summary, each a title and parts."""
    folder = Path(__file__).parent
    page = Page(
        results.title,
        _facts(results),
        [Markup("<br>".join(map(html.escape, notes(results))))] if notes(results) else [],
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        data={"sweep": json.dumps(_data(results), allow_nan=False)},
    )
    matrix = "<p class='note' id='matrix-note'></p><div class='scroll' id='matrix'></div>"
    page.add_section("Summary", Markup(matrix), tools="<label>Metric <select id='metric'></select></label>")
    for title, parts in sections:
        page.add_section(title, *parts)
    loads = "<p class='note'>Means over seeds with 95 % intervals, in the metric chosen above.</p>"
    loads += "<div class='chips sticky' id='chips'></div><div class='charts small' id='loads'></div>"
    page.add_section("Against load", Markup(loads))
    distributions = "".join(map(_distribution, TIMES))
    page.add_section(
        "One scenario",
        Markup("<p class='note' id='point-note'></p><div class='scroll' id='figures'></div>"),
        Markup(f"<div class='charts small'>{distributions}</div>"),
        tools="<label>Scenario <select id='point'></select></label>"
        "<label><input type='checkbox' id='log' checked> logarithmic time axis</label>",
    )
    pictures = _figure("replicas", "Load of the replicas", "outstanding requests over time")
    pictures += _figure("placements", "Placements", "")
    page.add_section(
        Markup("<span id='one'>One simulation</span>"),
        Markup(f"<div class='charts'>{pictures}</div>{command('command', '')}"),
        tools="<label>Scheduler <select id='scheduler'></select></label>"
        "<label>Seed <select id='seed'></select></label>",
    )
    if results.failures:
        page.add_section("Failed simulations", _failures(results))
    page.write(path)


def _data(results: Results) -> dict[str, Any]:
    """Return the data of report.js as plain JSON; lists are indexed by point, scheduler and metric."""
    pictured = _pictured_seeds(results)
    return {
        "schedulers": list(results.schedulers),
        "baseline": list(results.schedulers).index(results.baseline),
        "learned": [index for index, name in enumerate(results.schedulers) if name in results.policies],
        "metric": results.metrics.index(results.metric),
        "metrics": [
            {"name": name, "title": metric_title(name), "unit": metric_unit(name), "higher": name in HIGHER_IS_BETTER}
            | ({"share": True} if is_share(name) else {})
            for name in results.metrics
        ],
        "points": [_point(point) for point in results.points],
        "means": [[_means(results, point, name) for name in results.schedulers] for point in results.points],
        "differences": [
            [_differences(results, point, name) for name in results.schedulers] for point in results.points
        ],
        "cells": [[_cell(point, name, pictured) for name in results.schedulers] for point in results.points],
        "probabilities": short(PROBABILITIES),
        "classes": _class_names(),
        "colors": list(COLORS),
        "heat": HEAT,
    }


def _point(point: PointResults) -> dict[str, Any]:
    scenario = point.scenario
    return {
        "label": scenario.label,
        "name": scenario.name,
        "title": scenario.header.title,
        "replicas": scenario.num_replicas,
        "load": short([scenario.load])[0],
        "seeds": len(point.seeds),
        "note": f"{scenario.title}: {scenario.rate:.3g} requests/s, against a capacity of {scenario.capacity:.3g}; "
        f"goodput objectives: TTFT {value_text('ttft', scenario.objectives.ttft)}, TPOT "
        f"{value_text('tpot', scenario.objectives.tpot)}. Each mean stands above its difference from the baseline; "
        "the best of a column is framed.",
    }


def _means(results: Results, point: PointResults, scheduler: str) -> list[list[float | None] | None]:
    """Return the mean and half the width of its interval, by metric."""
    values = [point.mean(scheduler, metric) for metric in results.metrics]
    return [None if interval is None else short([interval.mean, interval.half]) for interval in values]


def _differences(results: Results, point: PointResults, scheduler: str) -> list[list[Any] | None]:
    """Return mean, half-width (None: unbounded), verdict, corrected p-value and whether in percent, by metric."""
    rows: list[list[Any] | None] = []
    for metric in results.metrics:
        comparison = results.comparison(point, scheduler, metric) if scheduler != results.baseline else None
        if comparison is None:
            rows.append(None)
            continue
        difference = comparison.difference
        half = difference.half if math.isfinite(difference.half) else math.nan
        rows.append(
            [*short([difference.mean, half]), comparison.verdict, *short([comparison.adjusted]), difference.relative]
        )
    return rows


def _cell(point: PointResults, scheduler: str, pictured: int) -> dict[str, Any]:
    """Return a scheduler's data at a point, without runs if it was left out; quantiles are means over seeds."""
    records = dict(sorted(point.records.get(scheduler, {}).items()))
    first = min(point.seeds)
    return {
        "quantiles": {time: _mean_quantiles(list(records.values()), time) for time in TIMES},
        "placements": np.sum([record.placements for record in records.values()], axis=0).tolist() if records else [],
        "runs": [
            {"seed": seed, "command": point.commands[scheduler][seed]}
            | ({"edges": short(record.load_edges), "load": [short(row, 3) for row in record.load]}
               if seed < first + pictured else {})
            for seed, record in records.items()
        ],
    }  # fmt: skip


def _mean_quantiles(records: Sequence[CellRecord], time: str) -> list[float | None]:
    values = [record.quantiles[time] for record in records if len(record.quantiles[time])]
    return short(np.mean(values, axis=0)) if values else []


def _pictured_seeds(results: Results) -> int:
    """Return how many of the first seeds have a load chart."""
    sizes = [
        max((record.load.size for record in point.records.get(name, {}).values()), default=0)
        for point in results.points
        for name in results.schedulers
    ]
    return max(1, _MOST_LOADS // max(1, sum(sizes)))


def _class_names() -> list[str]:
    """Return `up to 128`, `129 to 512`, ..., `over 8,192`."""
    middle = [f"{low + 1:,} to {high:,}" for low, high in itertools.pairwise(PROMPT_CLASSES)]
    return [f"up to {PROMPT_CLASSES[0]:,}", *middle, f"over {PROMPT_CLASSES[-1]:,}"]


def _facts(results: Results) -> list[tuple[str, str]]:
    counts = [len(point.seeds) for point in results.points]
    seeds = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    names = len({point.scenario.name for point in results.points})
    simulations = sum(len(records) for point in results.points for records in point.records.values())
    return [
        ("Compared", f"{plural(len(results.others), 'scheduler')} with {results.baseline}, in "
                     f"{plural(names, 'scenario')} at {plural(len(results.points), 'point')}, on the same requests"),
        ("Simulations", f"{simulations:,}: {seeds} seeds of {results.requests:,} requests and more, of which the first "
                        f"and the last {percent(WARM_UP, 0)} are not counted"),
        ("Verdicts", "95 %, of the difference paired by seed (bootstrap-t from 4 seeds on), corrected (Holm) for all "
                     "comparisons of a row"),
        *(("Policy", f"SHA-256 {digest[:16]}: {', '.join(_users(results, digest))}")
          for digest in dict.fromkeys(results.policies.values())),
        ("Made", f"{results.date}, on {results.machine}"),
        ("Command", command("sweep-command", results.command)),
    ]  # fmt: skip


def _users(results: Results, digest: str) -> list[str]:
    """Return the schedulers that use a checkpoint."""
    return [name for name, checkpoint in results.policies.items() if checkpoint == digest]


def _distribution(time: str) -> str:
    return _figure(f"cdf-{time}", time.upper(), "cumulative distribution, the mean over seeds", 300)


def _figure(name: str, title: str, note: str, height: int = 340) -> str:
    text = Markup(f"<span id='{name}-note'>{html.escape(note)}</span>")
    return figure(title, text, f"<div class='plot' id='{name}' style='height:{height}px' role='img'></div>")


def _failures(results: Results) -> Table:
    rows = [
        [
            failure.point,
            failure.scheduler,
            str(failure.seed),
            failure.error,
            command(f"failed{number}", failure.command),
        ]
        for number, failure in enumerate(results.failures)
    ]
    return Table(["Scenario", "Scheduler", "Seed", "Error", "Command"], rows, num_texts=5)
