"""The results as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rl.baselines import HEURISTICS, LEAST_TOKENS
from rl.evaluation_results import Results, metric_title, thresholds_text, value_text
from rl.evaluation_statistics import LOSS, WIN, PairedDifference
from rl.evaluation_targets import MET, targets

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLORS = {WIN: "green", LOSS: "red"}


def print_details(results: Results, metrics: Sequence[str]) -> None:
    """Every router in every scenario, with its differences from least_tokens."""
    console = _console()
    for its in results.scenarios:
        title = f"{its.scenario.name}: {its.scenario.header.title}; {its.scenario.rate:.1f} requests/s; "
        title += f"size_split at {thresholds_text(its.thresholds)}; differences from {LEAST_TOKENS}"
        headings = [name for metric in metrics for name in (metric_title(metric), "")]
        table = _table(console, title, ["Router", *headings])
        for router in its.routers:
            cells = []
            for metric in metrics:
                cells.append(value_text(metric, its.mean(router, metric)))
                cells.append("" if router == LEAST_TOKENS else _colored(its.difference(router, LEAST_TOKENS, metric)))
            table.add_row(router, *cells, style="" if router in HEURISTICS else "bold")
        console.print(table)
        console.print()


def print_summary(results: Results) -> None:
    """The learned router beside the best heuristic of each scenario, then the targets."""
    console = _console()
    for metric in ("mean_e2e", "p99_ttft"):
        headings = ["Scenario", "Best heuristic", metric_title(metric), *results.ppo]
        table = _table(console, f"{metric_title(metric)}: differences from the best heuristic", headings)
        for its in results.scenarios:
            best = its.best(metric)
            found = [_colored(its.difference(name, best, metric)) for name in results.ppo]
            table.add_row(its.scenario.name, best, value_text(metric, its.mean(best, metric)), *found)
        console.print(table)
        console.print()
    for target in targets(results):
        console.print(f"{target.verdict}: {target.text}", soft_wrap=True, style="" if target.state == MET else "yellow")
        for check in target.failed:
            console.print(f"    {check.scenario}: {check.text}", soft_wrap=True, markup=False)


def _colored(found: PairedDifference) -> str:
    color = _COLORS.get(found.verdict)
    return str(found) if color is None else f"[{color}]{found}[/{color}]"


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
