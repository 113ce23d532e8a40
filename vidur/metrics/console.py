"""Print the summary, in plain aligned text if the output is not a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from vidur.metrics.text import NOTHING, in_seconds, percent, plural, significant, time_unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vidur.metrics.result import SimulationResult

MAX_WIDTH = 100
MAX_REPLICA_ROWS = 16
"""More replicas than this are summarized by group."""

LATENCY_LABELS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E", "scheduling_delay": "Scheduling delay"}

Section = dict[str, Any]


def print_summary(result: SimulationResult, file: IO[str] | None = None) -> None:
    """Print a run's figures to `file` (default: stdout) in at most MAX_WIDTH columns."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    figures = result.summary
    _print_facts(console, figures)
    console.print()
    console.print(_latency_table(console, figures["latency"]))
    console.print()
    if len(figures["replicas"]) > MAX_REPLICA_ROWS:
        console.print(_group_table(console, figures["replicas"]))
    else:
        console.print(_replica_table(console, figures["replicas"]))


def facts(figures: Section) -> list[tuple[str, str]]:
    """Describe the run and its outcome as lines of (label, text)."""
    requests, throughput = figures["requests"], figures["throughput"]
    outcome = f"{requests['finished']:,} of {requests['total']:,} finished"
    for name in ("refused", "unfinished", "restarts", "reroutes"):
        if requests[name]:
            outcome += f", {requests[name]:,} {name}"
    lines = [
        ("Cluster", figures["cluster"]),
        ("Schedulers", figures["schedulers"]),
        ("Workload", figures["workload"] or NOTHING),
        ("Execution times", figures["execution_times"]),
        ("KV-cache", ", ".join(_blocks(group, len(figures["groups"])) for group in figures["groups"])),
        *([("Prefix cache", _cached(figures["prefix_cache"]))] if "prefix_cache" in figures else []),
        ("Requests", outcome + (" (partial: the run was stopped early)" if figures["partial"] else "")),
        (
            "Throughput",
            f"{significant(throughput['requests_per_second'])} requests/s, "
            f"{significant(throughput['output_tokens_per_second'])} output tokens/s, "
            f"{significant(throughput['tokens_per_second'])} tokens/s in all",
        ),
        ("Simulated", _simulated(figures)),
    ]
    if "goodput" in figures:
        lines.append(("Goodput", _goodput(figures["goodput"])))
    return lines


def _blocks(group: Section, num_groups: int) -> str:
    text = f"{group['kv_cache_blocks']:,} blocks a replica"
    return text if num_groups == 1 else f"{group['name']}: {text}"


def _cached(cache: Section) -> str:
    text = f"{percent(cache['hit_rate'])} of {cache['query_tokens']:,} prompt tokens were cached; "
    text += f"{plural(cache['evicted_blocks'], 'block')} evicted"
    if cache["evicted_blocks"]:
        text += f", {in_seconds(cache['mean_eviction_age'])} after their last use in the mean"
    return text


def _simulated(figures: Section) -> str:
    text = in_seconds(figures["duration"])
    if "batches" in figures and figures["batches"]["count"] is not None:
        text += f", {plural(figures['batches']['count'], 'batch', 'es')}"
    if "speed" in figures:
        text += f", in {in_seconds(figures['speed']['wall_seconds'])}"
    return text


def _goodput(goodput: Section) -> str:
    objectives = []
    for name in ("ttft", "tpot"):
        if (seconds := goodput[f"{name}_objective"]) is not None:
            met = percent(goodput[f"{name}_attainment"])
            objectives.append(f"{name.upper()} <= {in_seconds(seconds)} ({met} meet it)")
    rate, fraction = significant(goodput["requests_per_second"]), percent(goodput["fraction_of_finished"])
    return f"{rate} requests/s, {fraction} of the finished, at {' and '.join(objectives)}"


def print_comparison(results: Mapping[str, SimulationResult], file: IO[str] | None = None) -> None:
    """Print the latencies of several routers on the same requests side by side."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    columns = [("e2e", "mean"), ("e2e", "p99"), ("ttft", "mean"), ("ttft", "p99"), ("tpot", "mean")]
    figures = [[result.summary["latency"][name][column] for name, column in columns] for result in results.values()]
    units = [time_unit(list(values)) for values in zip(*figures, strict=True)]
    names = [
        f"{LATENCY_LABELS[name]} {column} ({unit.name})" for (name, column), unit in zip(columns, units, strict=True)
    ]
    rates = hit_rates(results)
    table = _table(console, ["The same requests under", *names, *(["Hit rate"] if rates else [])], 1)
    for router, values in zip(results, figures, strict=True):
        pairs = zip(values, units, strict=True)
        cells = (NOTHING if value is None else significant(value * unit.per_second) for value, unit in pairs)
        table.add_row(router, *cells, *([rates[router]] if rates else []))
    console.print()
    console.print(table)


def hit_rates(results: Mapping[str, SimulationResult]) -> dict[str, str]:
    """Return the hit rate of prefix caches under each router; empty without prefix caching."""
    sections = {router: result.summary.get("prefix_cache") for router, result in results.items()}
    if not any(sections.values()):
        return {}
    return {router: percent(section["hit_rate"] if section else None) for router, section in sections.items()}


def _print_facts(console: Console, figures: Section) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts(figures):
        grid.add_row(label, Text(text))
    console.print(grid)


def _table(console: Console, names: list[str], num_texts: int) -> Table:
    """Make a table of `num_texts` text columns followed by number columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < num_texts else "right")
    return table


def _latency_table(console: Console, latency: Section) -> Table:
    columns = ("mean", "p50", "p90", "p99")
    table = _table(console, ["Latency", *columns], 1)
    for name, label in LATENCY_LABELS.items():
        values = [latency[name][column] for column in columns]
        unit = time_unit(values)
        cells = [NOTHING if value is None else significant(value * unit.per_second) for value in values]
        table.add_row(f"{label} ({unit.name})", *cells)
    return table


def _replica_table(console: Console, replicas: list[Section]) -> Table:
    mixed = len({replica["group"] for replica in replicas}) > 1
    texts = ["Replica", "Group"] if mixed else ["Replica"]
    names, shown = ["Busy", "KV-cache mean", "KV-cache max"], ["busy", "kv_use_mean", "kv_use_max"]
    if "hit_rate" in replicas[0]:
        names, shown = [*names, "Hit rate"], [*shown, "hit_rate"]
    table = _table(console, [*texts, "Requests", *names, "Preemptions"], len(texts))
    for replica in replicas:
        cells = [str(replica["replica"]), replica["group"]][: len(texts)]
        shares = [percent(replica.get(name)) for name in shown]
        table.add_row(*cells, f"{replica['requests']:,}", *shares, f"{replica['preemptions']:,}")
    return table


def _group_table(console: Console, replicas: list[Section]) -> Table:
    """Make a table of sums of counts, means of shares, and the range over each group's replicas."""
    names = ["Group", "Replicas", "Requests", "(each)", "Busy", "(each)", "KV-cache mean", "max", "Preemptions"]
    caching = "hit_rate" in replicas[0]
    table = _table(console, names + ["Hit rate"] * caching, 1)
    for group in dict.fromkeys(replica["group"] for replica in replicas):
        members = [replica for replica in replicas if replica["group"] == group]
        requests = [replica["requests"] for replica in members]
        busy, mean, peak = (
            [value for member in members if (value := member.get(name)) is not None]
            for name in ("busy", "kv_use_mean", "kv_use_max")
        )
        table.add_row(
            group,
            f"{len(members):,}",
            f"{sum(requests):,}",
            f"{min(requests):,}-{max(requests):,}",
            percent(sum(busy) / len(busy) if busy else None),
            f"{100 * min(busy):.0f}-{100 * max(busy):.0f} %" if busy else NOTHING,
            percent(sum(mean) / len(mean) if mean else None),
            percent(max(peak, default=None)),
            f"{sum(replica['preemptions'] for replica in members):,}",
            *([_hit_rate(members)] if caching else []),
        )
    return table


def _hit_rate(replicas: list[Section]) -> str:
    hit, query = (sum(replica[name] for replica in replicas) for name in ("hit_tokens", "query_tokens"))
    return percent(hit / query if query else None)
