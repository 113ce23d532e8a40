"""report.html: one file that shows a run and works offline."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidur.atomic import write_text
from vidur.metrics import report_sections as sections
from vidur.metrics.console import LATENCY_LABELS, facts
from vidur.metrics.report_charts import Chart, full_layout
from vidur.metrics.report_style import DRAW_SCRIPT, STYLE
from vidur.metrics.result import SimulationResult
from vidur.metrics.text import NOTHING, in_seconds, percent, significant, time_unit

Section = dict[str, Any]


def write_report(path: Path, result: SimulationResult) -> None:
    """Write the report of a run."""
    figures = result.summary
    body, charts = _body(result, figures)
    write_page(path, f"Simulation of {figures['cluster']}", body, charts)


def write_page(
    path: Path,
    title: str,
    body: str,
    charts: Sequence[Chart] = (),
    style: str = "",
    script: str = "",
    data: Mapping[str, str] | None = None,
) -> None:
    """Write a page that works offline, plotly.js and all.

    body: HTML in which `place` holds room for the charts. style, script: the page's own, after those of all pages.
    data: texts for the script, by the id of their element, free of `<`.
    """
    from plotly.offline import get_plotlyjs

    drawn = [{"data": chart.data, "layout": full_layout(chart)} for chart in charts]
    texts = "".join(f"<script type='text/plain' id='{name}'>{text}</script>\n" for name, text in (data or {}).items())
    write_text(
        path,
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n<body>\n{body}\n"
        f"<script>{get_plotlyjs()}</script>\n"
        f"<script type='application/json' id='charts'>{_script_json(drawn)}</script>\n{texts}"
        f"<script>{DRAW_SCRIPT}{script}</script>\n</body></html>\n",
    )


def _script_json(data: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _body(result: SimulationResult, figures: Section) -> tuple[str, list[Chart]]:
    """The page without its scripts, and the charts whose places are in it, in order."""
    metrics = result.config.metrics_config
    drawn: list[Chart] = []
    parts = [_header(figures), "<main>", _cards(figures)]

    def add(title: str, charts: list[Chart], before: str = "", tools: str = "") -> None:
        places = []
        for chart in charts:
            places.append(place(chart, len(drawn)))
            if chart.has_data:
                drawn.append(chart)
        parts.append(f"<section><h2>{title}{tools}</h2>{before}<div class='charts'>{''.join(places)}</div></section>")

    if metrics.store_request_metrics:
        toggle = "<label class='tool'><input type='checkbox' id='log'> logarithmic time axis</label>"
        add("Latency", sections.latency_charts(result), _latency_table(figures["latency"]), toggle)
    over_time = [sections.load_chart(result)]
    if metrics.store_utilization_metrics:
        over_time += sections.replica_charts(result)
    add("Over time", over_time)
    parts.append(_replicas(figures["replicas"]))
    if metrics.store_batch_metrics:
        add("Batches", sections.batch_charts(result))
    if metrics.store_request_metrics:
        add("Requests", sections.request_charts(result))
    if metrics.store_operation_metrics:
        add("Operations", [sections.operation_chart(result)])
    parts.append(_configuration(result, figures))
    parts.append("</main>")
    return "\n".join(parts), drawn


def _header(figures: Section) -> str:
    shown = [(label, text) for label, text in facts(figures) if label not in ("Cluster", "Throughput")]
    rows = "".join(f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in shown)
    partial = (
        "<p class='warning'>Partial: the run was cut before all requests were done.</p>" if figures["partial"] else ""
    )
    return f"<header><h1>{html.escape(figures['cluster'])}</h1><dl>{rows}</dl>{partial}</header>"


def _cards(figures: Section) -> str:
    requests, throughput, latency = figures["requests"], figures["throughput"], figures["latency"]
    cards = [("Finished", f"{requests['finished']:,}", f"of {requests['total']:,} requests")]
    if requests["refused"]:
        cards.append(("Refused", f"{requests['refused']:,}", "longer than a replica can hold"))
    if requests["restarts"]:
        cards.append(("Restarts", f"{requests['restarts']:,}", "after preemption"))
    rate, tokens = significant(throughput["requests_per_second"]), significant(throughput["output_tokens_per_second"])
    cards += [("Throughput", f"{rate} /s", "requests"), ("Output", f"{tokens} /s", "tokens")]
    for name in ("ttft", "tpot", "e2e"):
        cards.append(
            (f"{LATENCY_LABELS[name]} p50", in_seconds(latency[name]["p50"]), f"p99 {in_seconds(latency[name]['p99'])}")
        )
    if "goodput" in figures:
        goodput = figures["goodput"]
        share = f"{percent(goodput['fraction_of_finished'])} of the finished"
        cards.append(("Goodput", f"{significant(goodput['requests_per_second'])} /s", share))
    busy = [replica["busy"] for replica in figures["replicas"] if replica.get("busy") is not None]
    if busy:
        cards.append(("Busy", percent(sum(busy) / len(busy)), f"{percent(min(busy), 0)} to {percent(max(busy), 0)}"))
    shown = "".join(
        f"<div class='card'><span>{label}</span><strong>{value}</strong><small>{note}</small></div>"
        for label, value, note in cards
    )
    return f"<div class='cards'>{shown}</div>"


def place(chart: Chart, number: int) -> str:
    """Room for the chart of that number, counted from 0 among those that have data."""
    classes = " ".join(["chart", *chart.classes, *(["wide"] if chart.is_wide else [])])
    inside = "<p class='nothing'>nothing was recorded</p>"
    if chart.has_data:
        inside = f"<div class='plot' id='chart{number}' style='height:{chart.height}px'></div>"
    caption = f"<figcaption><b>{chart.title}</b> {html.escape(chart.note)}</figcaption>"
    return f"<figure class='{classes}'>{caption}{inside}</figure>"


def _latency_table(latency: Section) -> str:
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    rows = []
    for name, label in (*LATENCY_LABELS.items(), ("e2e_normalized", "E2E per output token")):
        values = [latency[name][column] for column in columns]
        unit = time_unit([latency[name]["p99"]])
        cells = [NOTHING if value is None else significant(value * unit.per_second) for value in values]
        rows.append([f"{label} ({unit.name})", *cells])
    return table(["", *columns], rows, num_texts=1)


def _replicas(replicas: list[Section]) -> str:
    names = ["Replica", "Group", "Requests", "Busy", "KV-cache mean", "KV-cache max", "Preemptions", "MFU"]
    rows = [
        [
            str(replica["replica"]),
            html.escape(replica["group"]),
            f"{replica['requests']:,}",
            *(percent(replica.get(name)) for name in ("busy", "kv_use_mean", "kv_use_max")),
            f"{replica['preemptions']:,}",
            percent(replica.get("mfu")),
        ]
        for replica in replicas
    ]
    return f"<section><h2>Replicas</h2><div class='scroll'>{table(names, rows, num_texts=2)}</div></section>"


def table(names: list[str], rows: list[list[str]], num_texts: int) -> str:
    """A table of HTML texts whose first `num_texts` columns are texts, the others numbers."""

    def cells(tag: str, texts: list[str]) -> str:
        return "".join(
            f"<{tag}{'' if place < num_texts else ' class=number'}>{text}</{tag}>" for place, text in enumerate(texts)
        )

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', names)}</tr></thead><tbody>{lines}</tbody></table>"


def _configuration(result: SimulationResult, figures: Section) -> str:
    config = html.escape(json.dumps(result.config.to_dict(), indent=2))
    summary = html.escape(json.dumps(figures, indent=2))
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return (
        "<section><h2>Configuration</h2>"
        f"<details><summary>config.json: what reproduces this run</summary><pre>{config}</pre></details>"
        f"<details><summary>summary.json: every figure</summary><pre>{summary}</pre></details>"
        f"<p class='versions'>{html.escape(versions)}</p></section>"
    )
