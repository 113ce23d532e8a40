"""Plot a run's latencies with plotly in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidur.metrics.batch_runs import counted_requests
from vidur.metrics.console import LATENCY_LABELS
from vidur.metrics.latency import latencies
from vidur.metrics.text import time_unit
from vidur.report.chart import cumulative

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vidur.metrics.result import SimulationResult

_SHOWN = ("ttft", "tpot", "itl", "e2e")
_POINTS = 500


def latency_figure(result: SimulationResult) -> Figure:
    """Plot cumulative distributions over the finished requests, a panel for each latency."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    metrics = result.config.metrics_config
    counted = counted_requests(result.recording, result.runs, metrics.min_batch_index, metrics.max_batch_index)
    times = latencies(result.recording, counted)
    figure: Figure = make_subplots(rows=1, cols=len(_SHOWN), shared_yaxes=True)
    for column, name in enumerate(_SHOWN, 1):
        values, weights = result.itl() if name == "itl" else (times[name], None)
        x, y = cumulative(values, _POINTS, weights)
        unit = time_unit([float(x[-1])] if len(x) else [])
        label = LATENCY_LABELS[name]
        figure.add_trace(Scatter(x=x * unit.per_second, y=y, name=label, mode="lines"), row=1, col=column)
        figure.update_xaxes(title_text=f"{label} ({unit.name})", row=1, col=column)
    figure.update_yaxes(title_text="% of requests (ITL: % of tokens)", row=1, col=1)
    figure.update_layout(showlegend=False)
    return figure
