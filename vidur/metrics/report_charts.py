"""The charts of report.html, as plain plotly.js figures: lists and dicts of JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Trace = dict[str, Any]
Floats = NDArray[np.float64]

COLORS = (
    "#2563eb", "#ea7317", "#0d9488", "#c026a3", "#7c3aed", "#65a30d", "#dc2626", "#0891b2",
    "#a16207", "#4f46e5", "#be185d", "#15803d", "#b45309", "#475569", "#9333ea", "#0369a1",
)  # fmt: skip
ACCENT = COLORS[0]
HEAT = [[0, "#f1f5fb"], [0.25, "#b9d0f5"], [0.5, "#6f9fea"], [0.75, "#2f66d0"], [1, "#15306e"]]

BASE_LAYOUT: dict[str, Any] = {
    "font": {"family": "Inter, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif", "size": 12, "color": "#334155"},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "#ffffff",
    "margin": {"l": 64, "r": 20, "t": 28, "b": 48},
    "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": "#cbd5e1", "font": {"color": "#0f172a"}},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#94a3b8", "activecolor": "#334155"},
    "colorway": list(COLORS),
    "bargap": 0.06,
}
AXIS = {"gridcolor": "#e8edf3", "linecolor": "#cbd5e1", "zeroline": False, "ticks": "outside", "tickcolor": "#cbd5e1"}


@dataclass(frozen=True)
class Chart:
    """A chart and the words around it. `height` in pixels; `is_wide`: over the full width of the page."""

    title: str
    note: str
    data: list[Trace]
    layout: dict[str, Any]
    height: int = 320
    is_wide: bool = False
    classes: Sequence[str] = field(default=())

    @property
    def has_data(self) -> bool:
        return any(trace["x"] for trace in self.data)


def full_layout(chart: Chart) -> dict[str, Any]:
    """The chart's layout over what all charts share."""
    margin = {**BASE_LAYOUT["margin"], **chart.layout.get("margin", {})}
    return {**BASE_LAYOUT, **chart.layout, "margin": margin}


def axis(title: str | None = None, **more: Any) -> dict[str, Any]:
    return {**AXIS, **({"title": {"text": title, "standoff": 8}} if title else {}), **more}


def layout(x_title: str, y_title: str, **more: Any) -> dict[str, Any]:
    return {"xaxis": axis(x_title), "yaxis": axis(y_title, rangemode="tozero"), **more}


def short(values: NDArray[Any] | Sequence[float], digits: int = 4) -> list[float | None]:
    """Numbers of a few significant digits, for a short file; nan becomes None."""
    return [float(f"{value:.{digits}g}") if value == value else None for value in np.asarray(values, float).tolist()]


def cumulative(values: Floats, num_points: int) -> tuple[Floats, Floats]:
    """x and y (percent) of the empirical distribution of the values that are not nan, in at most about `num_points`."""
    ordered = np.sort(values[~np.isnan(values)])
    count = len(ordered)
    if count <= num_points:
        return ordered, 100 * np.arange(1, count + 1) / max(count, 1)
    rank = np.unique(np.linspace(0, count - 1, num_points).astype(np.int64))
    return ordered[rank], 100 * (rank + 1) / count


def weighted_histogram(values: NDArray[Any], counts: NDArray[Any], edges: Floats) -> Floats:
    """Percent of all `counts` in each bin; what lies beyond the edges is in the first or the last."""
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    sums = np.bincount(place, counts, len(edges) - 1)
    return 100 * sums / max(sums.sum(), 1)  # type: ignore[no-any-return]


def bars(edges: Floats, heights: Floats, what: str, color: str = ACCENT) -> Trace:
    """Bars over bins, each as wide as its bin."""
    return {
        "type": "bar",
        "x": short((edges[1:] + edges[:-1]) / 2, 5),
        "y": short(heights),
        "width": short(np.diff(edges) * 0.94, 5),
        "marker": {"color": color},
        "hovertemplate": f"%{{x}} {what}: %{{y:.2f}} %<extra></extra>",
        "showlegend": False,
    }


def line(x: list[Any], y: list[Any], name: str, color: str, **more: Any) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": name,
        "line": {"color": color, "width": 1.6},
        **more,
    }


def range_band(x: list[Any], low: Floats, mean: Floats, high: Floats, axes: dict[str, str]) -> list[Trace]:
    """The mean of several series in a band from the least to the greatest of them."""
    edge = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **axes}
    return [
        line(x, short(high), "most", ACCENT, **edge),
        line(x, short(low), "least to most", ACCENT, **edge | {"fill": "tonexty", "fillcolor": "rgba(37,99,235,0.16)"}),
        line(x, short(mean), "mean of the replicas", ACCENT, showlegend=False, **axes),
    ]
