"""Write report.html, one file that shows a run and works offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidur.metrics import report_sections as sections
from vidur.metrics.cache_charts import cache_charts
from vidur.metrics.console import LATENCY_LABELS, facts, hit_rates
from vidur.metrics.text import NOTHING, Unit, in_seconds, percent, significant, time_unit
from vidur.report import Markup, Page, Table
from vidur.report.markup import markup

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult

Section = dict[str, Any]


def write_report(path: Path, result: SimulationResult, others: Mapping[str, SimulationResult] | None = None) -> None:
    """Write the report of a run. others: results of other routers on the same requests, by name."""
    report_page(result, others).write(path)


def report_page(result: SimulationResult, others: Mapping[str, SimulationResult] | None = None) -> Page:
    """Return the report of a run as a page."""
    figures, others = result.summary, others or {}
    metrics = result.config.metrics_config
    shown = [(label, text) for label, text in facts(figures) if label not in ("Cluster", "Throughput")]
    warnings = ["Partial: the run was stopped before all requests were done."] if figures["partial"] else []
    page = Page(figures["cluster"], shown, warnings)
    page.add_cards(_cards(figures))
    results = {sections.router_name(result): result, **others}
    if others:
        page.add_section("Routers on the same requests", _router_table(results), sections.outstanding_chart(results))
    if metrics.store_request_metrics:
        charts = [*sections.latency_charts(result, others), sections.token_latency_chart(result)]
        page.add_section("Latency", _latency_table(figures["latency"]), *charts)
    charts = [sections.load_chart(result)]
    if metrics.store_utilization_metrics:
        charts += sections.replica_charts(result)
    page.add_section("Over time", *charts)
    if "prefix_cache" in figures and metrics.store_request_metrics:
        page.add_section("Prefix caches", *cache_charts(result))
    page.add_section("Replicas", _replica_table(figures["replicas"]))
    if metrics.store_batch_metrics:
        page.add_section("Batches", *sections.batch_charts(result))
    if metrics.store_request_metrics:
        page.add_section("Requests", *sections.request_charts(result))
    if metrics.store_operation_metrics:
        page.add_section("Operations", sections.operation_chart(result))
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    page.add_section(
        "Configuration",
        _folded("config.json: what reproduces this run", result.config.to_dict()),
        _folded("summary.json: every figure", figures),
        Markup(f"<p class='note'>{markup(versions)}</p>"),
    )
    return page


def _folded(title: str, value: Section) -> Markup:
    text = markup(json.dumps(value, indent=2))
    return Markup(f"<details><summary>{title}</summary><pre>{text}</pre></details>")


def _cards(figures: Section) -> list[tuple[str, str, str]]:
    requests, throughput, latency = figures["requests"], figures["throughput"], figures["latency"]
    cards = [("Finished", f"{requests['finished']:,}", f"of {requests['total']:,} requests")]
    if requests["refused"]:
        cards.append(("Refused", f"{requests['refused']:,}", "longer than a replica can hold"))
    if requests["restarts"]:
        cards.append(("Restarts", f"{requests['restarts']:,}", "after preemption"))
    rate, tokens = significant(throughput["requests_per_second"]), significant(throughput["output_tokens_per_second"])
    cards += [("Throughput", f"{rate} /s", "requests"), ("Output", f"{tokens} /s", "tokens")]
    for name in ("ttft", "tpot", "e2e"):
        label, times = f"{LATENCY_LABELS[name]} p50", latency[name]
        cards.append((label, in_seconds(times["p50"]), f"p99 {in_seconds(times['p99'])}"))
    if "goodput" in figures:
        goodput = figures["goodput"]
        for name in ("ttft", "tpot"):
            if goodput[f"{name}_objective"] is not None:
                note = f"within {in_seconds(goodput[f'{name}_objective'])}"
                cards.append((f"{name.upper()} SLO met", percent(goodput[f"{name}_attainment"]), note))
        share = f"{percent(goodput['fraction_of_finished'])} of the finished"
        cards.append(("Goodput", f"{significant(goodput['requests_per_second'])} /s", share))
    if "prefix_cache" in figures:
        cards.append(("Hit rate", percent(figures["prefix_cache"]["hit_rate"]), "of the prompt tokens"))
    busy = [replica["busy"] for replica in figures["replicas"] if replica.get("busy") is not None]
    if busy:
        cards.append(("Busy", percent(sum(busy) / len(busy)), f"{percent(min(busy), 0)} to {percent(max(busy), 0)}"))
    return cards


def _scaled(value: float | None, unit: Unit) -> str:
    return NOTHING if value is None else significant(value * unit.per_second)


def _router_table(results: Mapping[str, SimulationResult]) -> Table:
    """Make a table of latencies and throughput under each router."""
    figures = {name: result.summary for name, result in results.items()}
    times = [(name, column) for name in ("ttft", "tpot", "e2e") for column in ("mean", "p99")]
    units = [time_unit([section["latency"][name][column] for section in figures.values()]) for name, column in times]
    heads = [
        f"{LATENCY_LABELS[name]} {column} ({unit.name})" for (name, column), unit in zip(times, units, strict=True)
    ]
    rows = []
    for router, section in figures.items():
        cells = [
            _scaled(section["latency"][name][column], unit) for (name, column), unit in zip(times, units, strict=True)
        ]
        rows.append([router, f"{section['requests']['finished']:,}", *cells])
        if "goodput" in section:
            goodput = section["goodput"]
            rows[-1] += [significant(goodput["requests_per_second"]), percent(goodput["fraction_of_finished"])]
    more_heads = ["Goodput (requests/s)", "Meet the SLOs"] if len(rows[0]) > len(heads) + 2 else []
    if rates := hit_rates(results):
        more_heads.append("Hit rate")
        rows = [[*row, rates[row[0]]] for row in rows]
    return Table(["Router", "Finished", *heads, *more_heads], rows)


def _latency_table(latency: Section) -> Table:
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    rows = []
    for name, label in (*LATENCY_LABELS.items(), ("e2e_normalized", "E2E per output token")):
        unit = time_unit([latency[name]["p99"]])
        rows.append([f"{label} ({unit.name})", *(_scaled(latency[name][column], unit) for column in columns)])
    return Table(["", *columns], rows, sortable=False)


def _replica_table(replicas: list[Section]) -> Table:
    names = ["Replica", "Group", "Requests", "Busy", "KV-cache mean", "KV-cache max", "Preemptions", "MFU"]
    caching = "hit_rate" in replicas[0]
    names += ["Hit rate", "Evicted blocks", "Age at eviction"] * caching
    rows = [
        [
            str(replica["replica"]),
            replica["group"],
            f"{replica['requests']:,}",
            *(percent(replica.get(name)) for name in ("busy", "kv_use_mean", "kv_use_max")),
            f"{replica['preemptions']:,}",
            percent(replica.get("mfu")),
            *(_cache_cells(replica) if caching else []),
        ]
        for replica in replicas
    ]
    return Table(names, rows, num_texts=2)


def _cache_cells(replica: Section) -> list[str]:
    return [percent(replica["hit_rate"]), f"{replica['evicted_blocks']:,}", in_seconds(replica["mean_eviction_age"])]
