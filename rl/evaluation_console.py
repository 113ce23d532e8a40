"""The results as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl.baselines import HEURISTICS, LEAST_TOKENS
from rl.evaluation_results import Results
from rl.evaluation_statistics import LOSS, WIN, PairedDifference
from rl.evaluation_targets import Target, targets
from vidur.metrics.text import NOTHING, in_seconds, significant

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLORS = {WIN: "green", LOSS: "red"}
_TIMES = ("ttft", "tpot", "e2e")


def value_text(metric: str, value: float) -> str:
    """A metric's value with its unit."""
    if value != value:
        return NOTHING
    return in_seconds(value) if metric.endswith(_TIMES) else significant(value)


def difference_text(found: PairedDifference) -> str:
    """`-6.1 % [-7.0, -5.2]`."""
    if found.low != found.low:
        return found.scaled(found.mean)
    return f"{found.scaled(found.mean)} [{found.low:+.1f}, {found.high:+.1f}]"


def metric_title(metric: str) -> str:
    """`p99 TTFT` for p99_ttft."""
    if metric == "long_p99_ttft":
        return "p99 TTFT, long prompts"
    figure, _, time = metric.partition("_")
    return f"{figure} {time.upper()}" if time in _TIMES else metric


def print_details(results: Results, metrics: Sequence[str]) -> None:
    """Every router in every scenario, with the learned router's difference from each heuristic left to the report."""
    console = _console()
    for its in results.scenarios:
        header = its.scenario.header
        thresholds = " and ".join(f"{value:g}" for value in its.thresholds) or "as it takes them"
        table = _table(
            console,
            f"{its.scenario.name}: {header.title}; {its.scenario.rate:.1f} requests/s; size_split at {thresholds} "
            f"tokens; differences from {LEAST_TOKENS}",
            ["Router", *(title for metric in metrics for title in (metric_title(metric), ""))],
        )
        for router in its.routers:
            cells = []
            for metric in metrics:
                cells.append(value_text(metric, its.mean(router, metric)))
                found = its.difference(router, LEAST_TOKENS, metric)
                cells.append("" if router == LEAST_TOKENS else _colored(found, difference_text(found)))
            table.add_row(router, *cells, style="bold" if router not in HEURISTICS else "")
        console.print(table)
        console.print()


def print_summary(results: Results) -> None:
    """One row a scenario, then the targets."""
    console = _console()

    table = _table(
        console,
        "Difference from the best heuristic, by scenario",
        ["Scenario", "Best", "mean E2E", *(f"beta {beta:g}" for beta in results.betas),
         "Best", "p99 TTFT", *(f"beta {beta:g}" for beta in results.betas)],
    )  # fmt: skip
    for its in results.scenarios:
        cells = [its.scenario.name]
        for metric in ("mean_e2e", "p99_ttft"):
            best = its.best(metric)
            cells += [best, value_text(metric, its.mean(best, metric))]
            for name in results.ppo:
                found = its.difference(name, best, metric)
                cells.append(_colored(found, difference_text(found)))
        table.add_row(*cells)
    console.print(table)
    console.print()
    _print_targets(console, targets(results))


def _print_targets(console: Console, found: Sequence[Target]) -> None:
    for target in found:
        console.print(f"{target.mark()}  {target.text}", soft_wrap=True, style="" if target.is_met else "yellow")
        for check in target.missed():
            console.print(f"        {check.scenario}: {check.text}", soft_wrap=True)


def _colored(found: PairedDifference, text: str) -> str:
    color = _COLORS.get(found.verdict)
    return text if color is None else f"[{color}]{text.replace('[', chr(92) + '[')}[/{color}]"


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    return console


def _table(console: Console, title: str, headings: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", pad_edge=False,
        box=box.SIMPLE_HEAD if console.is_terminal else None,
    )  # fmt: skip
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table
