"""The results as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidur.compare.figures import metric_title, value_text
from vidur.compare.statistics import LOSS, WIN, PairedDifference
from vidur.metrics.text import NOTHING, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vidur.compare.results import Comparison, Results

_COLORS = {WIN: "green", LOSS: "red"}


def colored(found: PairedDifference) -> str:
    """The difference with rich's mark-up: green for a win, red for a loss."""
    color = _COLORS.get(found.verdict)
    return str(found) if color is None else f"[{color}]{found}[/{color}]"


def make_console() -> Console:
    """Of stdout; wide where that is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240
    return console


def make_table(console: Console, title: str, headings: Sequence[str]) -> Table:
    """Without lines but for the head, and plain where the console is no terminal. The first column is text."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", pad_edge=False,
        box=box.SIMPLE_HEAD if console.is_terminal else None,
    )  # fmt: skip
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def print_results(results: Results) -> None:
    """The matrix of the headline metric, then the best of each row, and what was not reached."""
    console = make_console()
    headline = metric_title(results.metric)
    title = f"{results.title}: {headline}, difference from {results.baseline} in percent; in brackets ties"
    for names in _fitting(console, results):
        table = make_table(console, title, ["Scenario", results.baseline, *names])
        for its in results.points:
            mean = its.mean(results.baseline, results.metric)
            row = [value_text(results.metric, mean.mean) if mean is not None else NOTHING]
            row += [_cell(results.comparison(its, name, results.metric)) for name in names]
            table.add_row(its.scenario.label, *row)
        console.print(table)
        console.print()
    table = make_table(console, f"Best by {headline}", ["Scenario", "Scheduler", headline, "", "Seeds"])
    for its in results.points:
        best = results.best(its, results.metric)
        if best is None:
            table.add_row(its.scenario.label, NOTHING, NOTHING, NOTHING, f"{len(its.seeds)}")
            continue
        mean, found = its.mean(best, results.metric), results.comparison(its, best, results.metric)
        difference = "the baseline" if found is None else f"{found.difference}"
        assert mean is not None
        table.add_row(its.scenario.label, best, value_text(results.metric, mean.mean), difference, f"{len(its.seeds)}")
    console.print(table)
    console.print()
    for line in notes(results):
        console.print(line, soft_wrap=True, markup=False)


def notes(results: Results) -> list[str]:
    """What a reader must know beside the figures."""
    lines = [
        f"{its.scenario.label}: above capacity, where queues grow with the length of the simulation"
        for its in results.points
        if its.scenario.load > 1.0
    ]
    lines += [
        f"{its.scenario.label}: after {len(its.seeds)} seeds an interval is still {results.width(its):.1f} % wide"
        for its in results.too_wide
    ]
    lines += [
        f"{its.scenario.label}: {plural(its.missing, 'simulation')} failed" for its in results.points if its.missing
    ]
    return lines


def _fitting(console: Console, results: Results) -> list[list[str]]:
    """The schedulers but the baseline, in as many tables as the width of the console asks for."""
    fixed = max(len(its.scenario.label) for its in results.points) + len(results.baseline) + 6
    tables: list[list[str]] = [[]]
    left = console.width - fixed
    for name in results.others:
        width = max(len(name), len("(+100.0)")) + 2
        if width > left and tables[-1]:
            tables.append([])
            left = console.width - fixed
        tables[-1].append(name)
        left -= width
    return tables


def _cell(found: Comparison | None) -> str:
    if found is None:
        return NOTHING
    text = f"{found.difference.mean:+.1f}"
    color = _COLORS.get(found.verdict)
    return f"({text})" if color is None else f"[{color}]{text}[/{color}]"
