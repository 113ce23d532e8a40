"""The results as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from vidur.compare.figures import metric_title, value_text
from vidur.compare.statistics import LOSS, TIE, WIN, PairedDifference
from vidur.metrics.text import NOTHING, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vidur.compare.results import Comparison, PointResults, Results

_COLORS = {WIN: "green", LOSS: "red"}


def colored(found: PairedDifference) -> str:
    """The difference with rich's mark-up: green for a win, red for a loss."""
    color = _COLORS.get(found.verdict)
    return str(found) if color is None else f"[{color}]{found}[/{color}]"


def make_console(file: IO[str] | None = None) -> Console:
    """Of `file`, stdout if None; wide where that is no terminal."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console.width = 240
    return console


def make_table(console: Console, headings: Sequence[str]) -> Table:
    """Without lines but for the head, and plain where the console is no terminal. The first column is text."""
    from rich import box
    from rich.table import Table

    table = Table(pad_edge=False, box=box.SIMPLE_HEAD if console.is_terminal else None)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def print_table(console: Console, title: str, table: Table) -> None:
    """The title above, an empty line below. A title within the table would be wrapped to its width."""
    console.print(title, style="bold", soft_wrap=True, markup=False)
    console.print(table)
    console.print()


def print_results(results: Results) -> None:
    """The matrix of the headline metric, then the best of each row, and what was not reached."""
    console = make_console()
    headline = metric_title(results.metric)
    title = f"{results.title}: {headline}, difference from {results.baseline} in percent; in brackets ties"
    for names in _fitting(console, results):
        table = make_table(console, ["Scenario", results.baseline, *names])
        for its in results.points:
            mean = its.mean(results.baseline, results.metric)
            row = [value_text(results.metric, mean.mean) if mean is not None else NOTHING]
            row += [_cell(results.comparison(its, name, results.metric)) for name in names]
            table.add_row(its.scenario.label, *row)
        print_table(console, title, table)
    table = make_table(console, ["Scenario", "Scheduler", headline, "", "Seeds"])
    for its in results.points:
        table.add_row(its.scenario.label, *_best(results, its), f"{len(its.seeds)}")
    print_table(console, f"The best by {headline}", table)
    for line in notes(results):
        console.print(line, soft_wrap=True, markup=False)


def _best(results: Results, its: PointResults) -> list[str]:
    """The scheduler, its mean, and its difference from the baseline."""
    best = results.best(its, results.metric)
    mean = its.mean(best, results.metric) if best is not None else None
    if best is None or mean is None:
        return [NOTHING] * 3
    found = results.comparison(its, best, results.metric)
    return [best, value_text(results.metric, mean.mean), "the baseline" if found is None else str(found.difference)]


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
    text = comparison_text(found)
    color = None if found is None else _COLORS.get(found.verdict)
    return text if color is None else f"[{color}]{text}[/{color}]"


def comparison_text(found: Comparison | None) -> str:
    """`-6.1`, in percent; `(-0.3)` for a tie; `+12 abs.` in the metric's unit, where the baseline has 0."""
    if found is None:
        return NOTHING
    difference = found.difference
    text = f"{difference.mean:+.1f}" if difference.relative else f"{difference.mean:+.3g} abs."
    return f"({text})" if found.verdict == TIE else text
