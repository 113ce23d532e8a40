"""Make the charts of prefix caches in report.html."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vidur.metrics.prefix_cache import begun_requests, belief_errors, replica_cache_columns, tokens_over_time
from vidur.metrics.report_sections import MAX_LINES, RATE_BINS, SCATTER_POINTS
from vidur.metrics.text import in_seconds, percent, significant, time_unit
from vidur.metrics.timeline import time_edges
from vidur.report.chart import (
    ACCENT,
    COLORS,
    FAINT,
    INK,
    Chart,
    Floats,
    Trace,
    axis,
    dots,
    layout,
    line,
    range_band,
    short,
)

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult


def cache_charts(result: SimulationResult) -> list[Chart]:
    """Chart hit rates, cached and computed prompt tokens, beliefs of routers, and evictions of a run with caches."""
    edges = time_edges(result.recording, RATE_BINS)
    prompts, cached = tokens_over_time(result.recording, edges)
    charts = [_hit_rates(edges, prompts, cached), _prompt_tokens(edges, prompts.sum(axis=0), cached.sum(axis=0))]
    if "num_believed_tokens" in result.recording.requests:
        charts.append(_beliefs(result))
    return [*charts, *_evictions(result)]


def _hit_rates(edges: Floats, prompts: Floats, cached: Floats) -> Chart:
    """Chart the hit rate of all replicas, with a line for each, or a band from the least to the greatest."""
    some = prompts.sum(axis=0) > 0
    prompts, cached = prompts[:, some], cached[:, some]
    middles = short(((edges[1:] + edges[:-1]) / 2)[some], 6)
    rates = 100 * cached / np.where(prompts > 0, prompts, np.nan)
    total = 100 * cached.sum(axis=0) / prompts.sum(axis=0)
    note = "cached among all prompt tokens, by the time of a request's first batch"
    traces: list[Trace] = []
    if len(rates) > MAX_LINES:
        traces = range_band(middles, np.fmin.reduce(rates), total, np.fmax.reduce(rates), {})
        traces[-1]["name"] = "all replicas"
        note += ", with a band from the least to the greatest of a replica"
    else:
        thin: dict[str, Any] = {"connectgaps": True, "opacity": 0.6}
        if len(rates) > 1:
            traces = [
                line(middles, short(row), f"replica {number}", COLORS[number], **thin)
                for number, row in enumerate(rates)
            ]
        traces.append(line(middles, short(total), "all replicas", INK, line={"color": INK, "width": 2.2}))
    shown = layout("time (s)", "hit rate (%)", hovermode="x unified")
    shown["yaxis"]["range"] = [0, 103]
    return Chart("Hit rate over time", note, traces, shown, is_wide=True)


def _prompt_tokens(edges: Floats, prompts: Floats, cached: Floats) -> Chart:
    middles, seconds = short((edges[1:] + edges[:-1]) / 2, 6), np.diff(edges)
    traces = [
        line(middles, short(tokens / seconds), name, color, stackgroup="prompts", fillcolor=f"{color}/0.35")
        for name, tokens, color in (("computed", prompts - cached, COLORS[1]), ("cached", cached, ACCENT))
    ]
    shown = layout("time (s)", "prompt tokens per second", hovermode="x unified")
    return Chart("Prompt tokens", "of requests, by the time of their first batch", traces, shown, is_wide=True)


def _beliefs(result: SimulationResult) -> Chart:
    """Plot cached tokens against those that the router believed cached, for a sample of requests."""
    requests, ids, errors = result.recording.requests, begun_requests(result.recording), belief_errors(result.recording)
    note = f"{len(ids):,} requests"
    if len(ids):
        mean, size = float(errors.mean()), significant(float(np.abs(errors).mean()))
        sign, right = "+" if mean > 0 else "", percent(float(np.mean(errors == 0)))
        note += f", {right} believed right; mean error {sign}{significant(mean)} tokens, mean absolute error {size}"
    if len(ids) > SCATTER_POINTS:
        ids = np.sort(np.random.default_rng(0).choice(ids, SCATTER_POINTS, replace=False))
        note += "; a sample is shown"
    believed, true = requests["num_believed_tokens"][ids], requests["num_cached_tokens"][ids]
    end = int(max(believed.max(initial=0), true.max(initial=0)))
    exact = line([0, end], [0, end], "believed = true", FAINT, hoverinfo="skip", showlegend=False)
    traces = [exact, dots(believed, true, name="requests")] if len(ids) else []
    shown = layout("believed cached when placed (tokens)", "cached when first scheduled (tokens)", showlegend=False)
    return Chart("Believed and true matches", note, traces, shown)


def _evictions(result: SimulationResult) -> list[Chart]:
    """Chart evicted blocks and their mean age by replica; nothing if no block was evicted."""
    columns = replica_cache_columns(result.recording)
    blocks, ages = columns["evicted_blocks"], columns["mean_eviction_age"]
    if not blocks.any():
        return []
    unit = time_unit(ages[~np.isnan(ages)].tolist())
    mean = float(result.recording.replicas["evicted_age"].sum() / blocks.sum())
    return [
        _by_replica("Evictions", "blocks that lost their content for another", "evicted blocks", blocks, "blocks"),
        _by_replica(
            "Age at eviction",
            f"from a block's last use, mean of each replica; {in_seconds(mean)} over all",
            f"age ({unit.name})",
            ages * unit.per_second,
            unit.name,
        ),
    ]


def _by_replica(title: str, note: str, y_title: str, values: Floats, unit: str) -> Chart:
    trace: Trace = {
        "type": "bar",
        "x": list(range(len(values))),
        "y": short(values),
        "marker": {"color": ACCENT},
        "hovertemplate": f"replica %{{x}}: %{{y}} {unit}<extra></extra>",
    }
    shown = {
        "xaxis": axis("replica", dtick=1 if len(values) <= MAX_LINES else None),
        "yaxis": axis(y_title),
        "bargap": 0.4,
    }
    return Chart(title, note, [trace], shown)
