"""Show a run's summary as HTML in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidur.metrics.console import LATENCY_LABELS, facts
from vidur.metrics.text import NOTHING, significant, time_unit
from vidur.report.markup import markup

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult

_COLUMNS = ("mean", "p50", "p90", "p99")


def summary_html(result: SimulationResult) -> str:
    """Return two tables: facts of the run, and latencies."""
    figures = result.summary
    rows = [f"<tr><th>{markup(label)}</th><td>{markup(text)}</td></tr>" for label, text in facts(figures)]
    latency_rows = ["<tr><th></th>" + "".join(f"<th>{column}</th>" for column in _COLUMNS) + "</tr>"]
    for name, label in LATENCY_LABELS.items():
        values = [figures["latency"][name][column] for column in _COLUMNS]
        unit = time_unit(values)
        texts = [NOTHING if value is None else significant(value * unit.per_second) for value in values]
        cells = "".join(f"<td>{text}</td>" for text in texts)
        latency_rows.append(f"<tr><th>{label} ({unit.name})</th>{cells}</tr>")
    return "".join(f"<table>{''.join(table)}</table>" for table in (rows, latency_rows))
