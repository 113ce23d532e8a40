"""Make the charts of report.html, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidur.engine.recording import FINISHED, Columns
from vidur.metrics.batch_runs import counted_requests, only_batches
from vidur.metrics.columns import time_per_output_token
from vidur.metrics.latency import latencies
from vidur.metrics.statistics import weighted_statistics
from vidur.metrics.text import MILLISECONDS, Unit, percent, significant, time_unit
from vidur.metrics.timeline import Timeline, time_edges, timeline
from vidur.report.chart import (
    ACCENT,
    BAD,
    COLORS,
    FAINT,
    INK,
    Chart,
    Floats,
    Trace,
    axis,
    bars,
    cumulative,
    dots,
    heat_map,
    layout,
    line,
    range_band,
    short,
    weighted_histogram,
)

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult

CURVE_POINTS = 1000
SCATTER_POINTS = 2000
TIME_BINS = 600
RATE_BINS = 100
HEAT_COLUMNS = 200
TAIL = 1.5
"""A distribution is initially shown up to this multiple of its p99."""
SLO_SHOWN = 5.0
"""An SLO up to this multiple of a distribution's p99 is drawn in its chart."""
HEAT_ROWS = 128
MAX_LINES = 16
"""More replicas than this are drawn as a range and a heat map."""

SERIES = {
    "running": "Running requests",
    "waiting": "Waiting requests",
    "kv_use": "KV-cache use (%)",
    "busy": "Busy time (%)",
}
PERCENTAGES = ("kv_use", "busy")
DISTRIBUTIONS = {
    "ttft": ("TTFT", "time to first token: from arrival to the first output token"),
    "tpot": ("TPOT", "mean time per output token after a request's first"),
    "e2e": ("E2E", "end to end: from arrival to the last output token"),
    "scheduling_delay": ("Scheduling delay", "from arrival to the first batch"),
}


def latency_charts(result: SimulationResult, others: Mapping[str, SimulationResult]) -> list[Chart]:
    """Make cumulative distributions of latencies, also for each group of a mixed cluster and under other routers."""
    times = latencies(result.recording, counted(result))
    besides = {name: latencies(other.recording, counted(other)) for name, other in others.items()}
    groups = result.config.cluster_config.groups
    group = result.recording.replicas["group"][result.recording.requests["replica"][counted(result)]]
    num_points = result.config.metrics_config.subsamples or CURVE_POINTS
    charts = []
    for name, (title, note) in DISTRIBUTIONS.items():
        present = times[name][~np.isnan(times[name])]
        p99 = float(np.percentile(present, 99)) if len(present) else 0.0
        unit = time_unit([p99])
        values = {router_name(result) if others else "all": times[name]}
        if others:
            values |= {other: figures[name] for other, figures in besides.items()}
        elif len(groups) > 1:
            values |= {resolved.name: times[name][group == number] for number, resolved in enumerate(groups)}
        colors = (ACCENT, *COLORS[1:]) if others or len(groups) == 1 else (INK, *COLORS)
        curves = [
            _curve(seconds, unit, num_points, label, color)
            for (label, seconds), color in zip(values.items(), colors, strict=False)
        ]
        slo = {"ttft": result.config.slo_ttft, "tpot": result.config.slo_tpot}.get(name)
        shown = layout(f"{title} ({unit.name})", "requests (%)", **_marks(present, unit, slo))
        shown["yaxis"]["range"] = [0, 102]
        end = max(TAIL * p99, 1.15 * slo if slo is not None and slo < SLO_SHOWN * p99 else 0.0)
        if end > 0:
            shown["xaxis"]["range"] = [0, end * unit.per_second]
        if others:
            note += f"; percentiles of {router_name(result)}"
        if present.max(initial=0.0) > end:
            note += "; double-click to show the whole tail"
        charts.append(Chart(title, note, curves, shown, log_switch=True))
    return charts


def token_latency_chart(result: SimulationResult) -> Chart:
    """Make the cumulative distribution of inter-token latencies."""
    values, weights, exact = result.token_latencies
    figures = weighted_statistics(values, weights)
    unit = time_unit([figures["p99"]])
    x, y = cumulative(values, result.config.metrics_config.subsamples or CURVE_POINTS, weights)
    hover = f"%{{y:.1f}} % within %{{x}} {unit.name}<extra></extra>"
    style = {"color": ACCENT, "width": 2, "shape": "hv"}
    curve = line(short(x * unit.per_second), short(y), "all", ACCENT, line=style, hovertemplate=hover)
    shown = layout(f"ITL ({unit.name})", "tokens (%)")
    shown["yaxis"]["range"] = [0, 102]
    if figures["p99"]:
        shown["xaxis"]["range"] = [0, TAIL * figures["p99"] * unit.per_second]
    note = "inter-token latency: between two successive tokens of a request"
    if exact < 1:
        note += f"; estimated for {percent(1 - exact)} of tokens"
    return Chart("ITL", note, [curve], shown, log_switch=True)


def outstanding_chart(results: Mapping[str, SimulationResult]) -> Chart:
    """Make a chart of outstanding requests over time under each router."""
    end = max(result.recording.end_time for result in results.values())
    times = np.linspace(0.0, end, TIME_BINS)
    traces = []
    for (name, result), color in zip(results.items(), COLORS, strict=False):
        arrived = np.sort(result.recording.requests["arrived_at"])
        left = np.sort(result.recording.requests["completed_at"][result.recording.requests["status"] == FINISHED])
        count = np.searchsorted(arrived, times, "right") - np.searchsorted(left, times, "right")
        traces.append(line(short(times, 6), count.tolist(), name, color))
    shown = layout("time (s)", "requests", hovermode="x unified")
    note = "requests that have arrived but not finished, under each router"
    return Chart("Requests in the cluster", note, traces, shown, is_wide=True)


def load_chart(result: SimulationResult) -> Chart:
    """Make a chart of arrivals and completions per second."""
    edges = time_edges(result.recording, RATE_BINS)
    requests = result.recording.requests
    middles = short((edges[1:] + edges[:-1]) / 2, 6)
    traces = []
    for column, name, color in (("arrived_at", "arrivals", FAINT), ("completed_at", "completions", ACCENT)):
        rates = np.histogram(requests[column], edges)[0] / np.diff(edges)
        traces.append(line(middles, short(rates), name, color, line={"color": color, "width": 1.8, "shape": "hvh"}))
    shown = layout("time (s)", "requests per second", hovermode="x unified")
    return Chart("Load", "while completions stay below arrivals, queues grow", traces, shown, height=260, is_wide=True)


def replica_charts(result: SimulationResult) -> list[Chart]:
    """Chart queues, KV-cache and busy time over time: a line per replica, or a range and heat maps for many."""
    lines = timeline(
        result.recording, result.runs, min(TIME_BINS, result.config.metrics_config.subsamples or TIME_BINS)
    )
    many = len(lines.busy) > MAX_LINES
    chart = _stacked(result, lines, many)
    return [chart, *_heat_maps(lines)] if many else [chart]


def batch_charts(result: SimulationResult) -> list[Chart]:
    """Make the distributions of batch sizes, tokens and times."""
    metrics = result.config.metrics_config
    runs = only_batches(result.runs, metrics.min_batch_index, metrics.max_batch_index)
    seconds = runs["execution_time"]
    unit = time_unit(short([seconds.max(initial=0.0)]))
    return [
        _histogram("Batch size", "requests in a batch, share of all batches", "requests", runs["batch_size"], runs),
        _histogram("Tokens in a batch", "prompt and output tokens processed", "tokens", runs["num_tokens"], runs),
        _histogram(
            "Batch time",
            "from scheduling to the end of the last pipeline stage; the last bar holds the slowest 0.1 %",
            unit.name,
            seconds * unit.per_second,
            runs,
        ),
        _time_by_tokens(runs, unit),
    ]


def request_charts(result: SimulationResult) -> list[Chart]:
    """Plot TTFT against prompt length and against arrival time, for a sample of requests."""
    requests = result.recording.requests
    ids = np.flatnonzero(counted(result))
    # A fixed seed, so that the same run always gives the same report.
    if len(ids) > SCATTER_POINTS:
        ids = np.sort(np.random.default_rng(0).choice(ids, SCATTER_POINTS, replace=False))
    ttft = requests["prefill_completed_at"][ids] - requests["arrived_at"][ids]
    tpot = time_per_output_token(result.recording)[ids] * MILLISECONDS.per_second
    unit = time_unit(short([ttft.max(initial=0.0)]))
    ttft = ttft * unit.per_second
    sampled = f"{len(ids):,} requests" + (", sampled" if len(ids) == SCATTER_POINTS else "")
    specs = [
        ("TTFT by prompt length", "prompt (tokens)", f"TTFT ({unit.name})", requests["num_prefill_tokens"][ids], ttft),
        ("TTFT by arrival", "arrival (s)", f"TTFT ({unit.name})", requests["arrived_at"][ids], ttft),
        ("TPOT by output length", "output (tokens)", "TPOT (ms)", requests["num_decode_tokens"][ids], tpot),
        ("TPOT by arrival", "arrival (s)", "TPOT (ms)", requests["arrived_at"][ids], tpot),
    ]
    return [
        Chart(title, sampled, [dots(x, y)], layout(x_title, y_title))
        for title, x_title, y_title, x, y in specs
        if len(x) == 0 or x.min() < x.max()
    ]


def operation_chart(result: SimulationResult) -> Chart:
    """Make a chart of busy time by operation."""
    totals = sorted(result.summary["operation_seconds"].items(), key=lambda item: item[1])
    everything = sum(seconds for _, seconds in totals) or 1.0
    shares = short([100 * seconds / everything for _, seconds in totals])
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": shares,
        "y": [name for name, _ in totals],
        "marker": {"color": ACCENT},
        "text": [f"{significant(share)} %" for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x} %<extra></extra>",
    }
    shown = {"xaxis": axis("share of the busy time (%)"), "yaxis": axis(automargin=True), "margin": {"l": 190, "r": 60}}
    note = "operations of the layers, all replicas and batches"
    return Chart("Operations", note, [trace], shown, height=60 + 24 * len(totals), is_wide=True)


def counted(result: SimulationResult) -> NDArray[np.bool_]:
    """bool[requests]: whether each finished within the batches that metrics are limited to."""
    metrics = result.config.metrics_config
    return counted_requests(result.recording, result.runs, metrics.min_batch_index, metrics.max_batch_index)


def router_name(result: SimulationResult) -> str:
    return result.config.cluster_config.global_scheduler_config.get_type()


def _marks(present: Floats, unit: Unit, slo: float | None) -> dict[str, Any]:
    """Draw labelled lines at p50, p90 and p99 (dotted) and at the SLO in seconds (dashed)."""
    if len(present) == 0:
        return {}
    marked = (50, 90, 99)
    at_percentiles = np.percentile(present, marked) * unit.per_second
    marks = [
        (float(f"{value:.6g}"), height, height, f"p{height} {significant(float(value))} {unit.name}", FAINT, "dot")
        for height, value in zip(marked, at_percentiles, strict=True)
    ]
    if slo is not None:
        text = (
            f"SLO {significant(slo * unit.per_second)} {unit.name}: {percent(float((present <= slo).mean()))} meet it"
        )
        marks.append((slo * unit.per_second, 102, 7, text, BAD, "dash"))
    shapes = [
        {
            "type": "line",
            "layer": "below" if dash == "dot" else "above",
            "x0": x,
            "x1": x,
            "y0": 0,
            "y1": top,
            "line": {"color": color, "width": 1.3, "dash": dash},
        }
        for x, top, _, _, color, dash in marks
    ]
    notes = [
        {
            "x": x,
            "y": y,
            "xanchor": "left",
            "yanchor": "top",
            "text": text,
            **({"font": {"color": BAD}} if color == BAD else {}),
        }
        for x, _, y, text, color, _ in marks
    ]
    return {"shapes": shapes, "annotations": notes}


def _curve(values: Floats, unit: Unit, num_points: int, name: str, color: str) -> Trace:
    x, y = cumulative(values, num_points)
    style = {"color": color, "width": 2, "shape": "hv"}
    hover = f"%{{y:.1f}} % within %{{x}} {unit.name}<extra>{name}</extra>"
    return line(short(x * unit.per_second), short(y), name, color, line=style, hovertemplate=hover)


def _stacked(result: SimulationResult, lines: Timeline, many: bool) -> Chart:
    middles = short((lines.edges[1:] + lines.edges[:-1]) / 2, 6)
    groups = result.config.cluster_config.groups
    group = result.recording.replicas["group"]
    names = [
        f"{number} ({groups[group[number]].name})" if len(groups) > 1 else str(number) for number in range(len(group))
    ]
    traces: list[Trace] = []
    shown: dict[str, Any] = {"xaxis": axis("time (s)", anchor=f"y{len(SERIES)}"), "hovermode": "x unified"}
    for index, (attribute, title) in enumerate(SERIES.items()):
        values = getattr(lines, attribute) * (100 if attribute in PERCENTAGES else 1)
        suffix = "" if index == 0 else str(index + 1)
        axes = {"yaxis": f"y{suffix}"}
        top = 1 - index / len(SERIES)
        limits = {"range": [0, 103]} if attribute in PERCENTAGES else {"rangemode": "tozero"}
        shown[f"yaxis{suffix}"] = axis(title, domain=[top - 1 / len(SERIES) + 0.03, top], **limits)
        if many:
            traces += range_band(middles, values.min(axis=0), values.mean(axis=0), values.max(axis=0), axes)
            continue
        for replica, series in enumerate(values):
            more: dict[str, Any] = {"legendgroup": names[replica], "showlegend": index == 0 and len(values) > 1, **axes}
            traces.append(line(middles, short(series), f"replica {names[replica]}", COLORS[replica], **more))
    shown |= _event_marks(result)
    note = "mean of all replicas, with a band from the least to the greatest" if many else "mean over each time bin"
    if len(traces) > len(SERIES) and not many:
        note += "; click on the legend to hide a replica"
    return Chart("Replicas over time", note, traces, shown, height=880, is_wide=True)


def _event_marks(result: SimulationResult) -> dict[str, Any]:
    """Draw lines at the configured events of the cluster if there are few."""
    events = result.config.cluster_config.replica_events[:20]
    style = {"color": BAD, "width": 1, "dash": "dash"}
    return {
        "shapes": [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": event.time, "x1": event.time, "line": style}
            for event in events
        ],
        "annotations": [
            {
                "x": event.time, "yref": "paper", "y": 1, "text": f"{event.replica}: {event.action}",
                "xanchor": "left", "yanchor": "top",
                "font": {"color": BAD},
            }
            for event in events
        ],
    }  # fmt: skip


def _heat_maps(lines: Timeline) -> list[Chart]:
    per_row = -(-len(lines.busy) // HEAT_ROWS)
    first = np.arange(0, len(lines.busy), per_row)
    per_column = -(-lines.busy.shape[1] // HEAT_COLUMNS)
    begins = lines.edges[:-1:per_column]
    charts = []
    for attribute, title in SERIES.items():
        values = _mean_of_groups(_mean_of_groups(getattr(lines, attribute), per_row, 0), per_column, 1)
        is_share = attribute in PERCENTAGES
        greatest = 100 if is_share else float(values.max()) or 1.0
        x = short((begins + np.append(begins[1:], lines.edges[-1])) / 2, 6)
        z = [short(row, 3) for row in values * (100 if is_share else 1)]
        trace = heat_map(x, first.tolist(), z, greatest, "replica %{y}, %{x} s: %{z}")
        rows = {
            "xaxis": axis("time (s)", showgrid=False),
            "yaxis": axis("replica", showgrid=False, autorange="reversed"),
        }
        note = "by replica and time" + (f", {per_row} replicas a row" if per_row > 1 else "")
        charts.append(Chart(title, note, [trace], rows))
    return charts


def _mean_of_groups(values: Floats, size: int, direction: int) -> Floats:
    """Average each `size` successive rows (direction 0) or columns (1); fewer at the end."""
    count = values.shape[direction]
    first = np.arange(0, count, size)
    sizes = np.diff(np.append(first, count))
    sums = np.add.reduceat(values, first, axis=direction)
    return sums / (sizes[:, None] if direction == 0 else sizes)


def _histogram(title: str, note: str, what: str, values: NDArray[Any], runs: Columns) -> Chart:
    """Make a histogram of batches by value, up to the 99.9th percentile."""
    if len(values) == 0:
        return Chart(title, note, [], layout(what, "batches (%)"))
    high = float(np.quantile(values, 0.999, method="higher"))
    if values.dtype.kind in "iu":
        step = max(1, -(-int(high) // 60))
        edges = np.arange(0.5, high + step + 0.5, step) if step == 1 else np.arange(0, high + step + 1, step)
    else:
        edges = np.linspace(0, high or 1.0, 61)
    shown = layout(f"{title.lower()} ({what})", "batches (%)")
    heights = weighted_histogram(values, runs["count"], edges)
    if heights.max() > 50:  # a single bar would dwarf the others
        shown["yaxis"] = axis("batches (%), logarithmic", type="log", dtick=1)
    return Chart(title, note, [bars(edges, heights, what)], shown)


def _time_by_tokens(runs: Columns, unit: Unit) -> Chart:
    """Plot batch time against tokens, for a sample of runs."""
    rows = np.arange(len(runs["count"]))
    if len(rows) > SCATTER_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, SCATTER_POINTS, replace=False))
    points = dots(runs["num_tokens"][rows], runs["execution_time"][rows] * unit.per_second)
    shown = layout("tokens in the batch", f"batch time ({unit.name})")
    return Chart(
        "Batch time by tokens",
        "a dot for each run of equal batches" + ", sampled" * (len(rows) == SCATTER_POINTS),
        [points],
        shown,
    )
