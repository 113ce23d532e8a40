"""Make charts as plain plotly.js figures of JSON values, drawn by the page's script.

A colour may be a name in theme.css, as `--ink`, or `--ink/0.2` with opacity; the script resolves it in the current
theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur.report.markup import Markup, markup

Trace = dict[str, Any]
Floats = NDArray[np.float64]

COLORS = tuple(f"--series-{number}" for number in range(16))
ACCENT = COLORS[0]
INK, SOFT, FAINT, BAD = "--ink", "--soft", "--faint", "--bad"
HEAT = [[number / 4, f"--heat-{number}"] for number in range(5)]


@dataclass(frozen=True)
class Chart:
    """A chart with its title and note.

    note: a line beside the title. height: pixels. is_wide: use the full width of the page. log_switch: offer a
    logarithmic horizontal axis.
    """

    title: str
    note: str
    data: list[Trace]
    layout: dict[str, Any]
    height: int = 320
    is_wide: bool = False
    log_switch: bool = False

    @property
    def has_data(self) -> bool:
        return any(trace["x"] for trace in self.data)

    def figure(self, plot_id: str) -> Markup:
        """Return the HTML element in which the page's script draws the chart, or a note that there are no data."""
        size, label = f"height:{self.height}px", markup(self.title)
        inside = f"<div class='plot' id='{plot_id}' style='{size}' role='img' aria-label='{label}'></div>"
        if not self.has_data:
            inside = "<p class='nothing'>nothing was recorded</p>"
        return figure(self.title, self.note, inside, "wide" * self.is_wide, " data-log" * self.log_switch)


def figure(title: str, note: str, inside: str, classes: str = "", attributes: str = "") -> Markup:
    """Frame a figure below its title and note."""
    caption = f"<figcaption><span><b>{markup(title)}</b> {markup(note)}</span></figcaption>"
    return Markup(f"<figure class='chart {classes}'{attributes}>{caption}{inside}</figure>")


def axis(title: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a plotly axis; `title` includes the unit, as `TTFT (ms)`."""
    return {**({"title": {"text": title, "standoff": 8}} if title else {}), **more}


def layout(x_title: str, y_title: str, **more: Any) -> dict[str, Any]:
    """Return a plotly layout whose vertical axis starts at 0."""
    return {"xaxis": axis(x_title), "yaxis": axis(y_title, rangemode="tozero"), **more}


def short(values: NDArray[Any] | Sequence[float], digits: int = 4) -> list[float | None]:
    """Round to a few significant digits for a short file; nan becomes None."""
    return [float(f"{value:.{digits}g}") if value == value else None for value in np.asarray(values, float).tolist()]


def cumulative(values: Floats, num_points: int, weights: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """Return x and y (percent) of the empirical distribution of the values that are not nan, in about `num_points`.

    weights: how often each value counts (None: once).
    """
    present = ~np.isnan(values)
    order = np.argsort(values[present], kind="stable")
    ordered = values[present][order]
    count = len(ordered)
    below = np.arange(1, count + 1) if weights is None else np.cumsum(weights[present][order])
    share = 100 * below / max(int(below[-1]) if count else 0, 1)
    if count <= num_points:
        return ordered, share
    if weights is None:
        rank = np.unique(np.linspace(0, count - 1, num_points).astype(np.int64))
    else:
        # Take the points at which the distribution passes equal steps.
        rank = np.unique(np.append(0, np.searchsorted(share, np.linspace(0, 100, num_points)).clip(0, count - 1)))
    return ordered[rank], share[rank]


def weighted_histogram(values: NDArray[Any], counts: NDArray[Any], edges: Floats) -> Floats:
    """Return the percentage of `counts` in each bin; values beyond the edges fall into the outer bins."""
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    sums = np.bincount(bins, counts, len(edges) - 1)
    return 100 * sums / max(sums.sum(), 1)  # type: ignore[no-any-return]


def bars(edges: Floats, heights: Floats, unit: str) -> Trace:
    """Make bars as wide as their bins."""
    return {
        "type": "bar",
        "x": short((edges[1:] + edges[:-1]) / 2, 5),
        "y": short(heights),
        "width": short(np.diff(edges) * 0.94, 5),
        "marker": {"color": ACCENT},
        "hovertemplate": f"%{{x}} {unit}: %{{y:.2f}} %<extra></extra>",
    }


def line(x: list[Any], y: list[Any], name: str, color: str, **more: Any) -> Trace:
    style = {"color": color, "width": 1.6}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": style, **more}


def dots(x: NDArray[Any], y: Floats, **more: Any) -> Trace:
    """Make a scatter plot."""
    marker = {"color": ACCENT, "size": 5, "opacity": 0.45}
    hover = "%{x}, %{y}<extra></extra>"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": short(x, 5),
        "y": short(y),
        "marker": marker,
        "hovertemplate": hover,
        **more,
    }


def range_band(x: list[Any], low: Floats, mean: Floats, high: Floats, axes: dict[str, str]) -> list[Trace]:
    """Draw the mean of several series in a band from their least to their greatest."""
    edge = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **axes}
    return [
        line(x, short(high), "most", ACCENT, **edge),
        line(x, short(low), "least to most", ACCENT, **edge | {"fill": "tonexty", "fillcolor": f"{ACCENT}/0.16"}),
        line(x, short(mean), "mean of the replicas", ACCENT, showlegend=False, **axes),
    ]


def heat_map(
    x: list[Any], y: list[Any], z: list[list[float | None]], greatest: float, hover: str, **more: Any
) -> Trace:
    """Make a heat map with colours from 0 to `greatest`."""
    bar = {"thickness": 10, "outlinewidth": 0, **more.pop("colorbar", {})}
    scale = {"colorscale": HEAT, "zmin": 0, "zmax": greatest, "colorbar": bar}
    return {"type": "heatmap", "x": x, "y": y, "z": z, "hovertemplate": f"{hover}<extra></extra>", **scale, **more}
