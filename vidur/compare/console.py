"""Print the results of a sweep."""

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


def colored(difference: PairedDifference) -> str:
    """Format a difference with rich's mark-up: green for a win, red for a loss."""
    color = _COLORS.get(difference.verdict)
    return str(difference) if color is None else f"[{color}]{difference}[/{color}]"


def make_console(file: IO[str] | None = None) -> Console:
    """Make a console on `file` (stdout if None), wide if it is not a terminal."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console.width = 240
    return console


def make_table(console: Console, headings: Sequence[str]) -> Table:
    """Make a table with a text column followed by number columns, without lines if the console is not a terminal."""
    from rich import box
    from rich.table import Table

    table = Table(pad_edge=False, box=box.SIMPLE_HEAD if console.is_terminal else None)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def print_table(console: Console, title: str, table: Table) -> None:
    """Print the title, which rich would wrap to the table's width, the table, and an empty line."""
    console.print(title, style="bold", soft_wrap=True, markup=False)
    console.print(table)
    console.print()


def print_results(results: Results) -> None:
    """Print the matrix of the headline metric, the best scheduler of each row, and notes."""
    console = make_console()
    headline = metric_title(results.metric)
    title = f"{results.title}: {headline}, difference from {results.baseline} in percent; in brackets ties"
    for names in _fitting(console, results):
        table = make_table(console, ["Scenario", results.baseline, *names])
        for point in results.points:
            mean = point.mean(results.baseline, results.metric)
            row = [value_text(results.metric, mean.mean) if mean is not None else NOTHING]
            row += [_cell(results.comparison(point, name, results.metric)) for name in names]
            table.add_row(point.scenario.label, *row)
        print_table(console, title, table)
    table = make_table(console, ["Scenario", "Scheduler", headline, "", "Seeds"])
    for point in results.points:
        table.add_row(point.scenario.label, *_best(results, point), f"{len(point.seeds)}")
    print_table(console, f"The best by {headline}", table)
    for line in notes(results):
        console.print(line, soft_wrap=True, markup=False)


def _best(results: Results, point: PointResults) -> list[str]:
    """Return the best scheduler, its mean, and its difference from the baseline."""
    best = results.best(point, results.metric)
    mean = point.mean(best, results.metric) if best is not None else None
    if best is None or mean is None:
        return [NOTHING] * 3
    comparison = results.comparison(point, best, results.metric)
    return [
        best,
        value_text(results.metric, mean.mean),
        "the baseline" if comparison is None else str(comparison.difference),
    ]


def notes(results: Results) -> list[str]:
    """Return caveats on the figures: overload, wide intervals, failures."""
    lines = [
        f"{point.scenario.label}: above capacity, so that queues grow with the length of the simulation"
        for point in results.points
        if point.scenario.load > 1.0
    ]
    lines += [
        f"{point.scenario.label}: after {len(point.seeds)} seeds an interval is still {results.width(point):.1f} % wide"
        for point in results.too_wide
    ]
    lines += [
        f"{point.scenario.label}: {plural(point.missing, 'simulation')} failed"
        for point in results.points
        if point.missing
    ]
    return lines


def _fitting(console: Console, results: Results) -> list[list[str]]:
    """Split the schedulers except the baseline into tables that fit the console."""
    fixed = max(len(point.scenario.label) for point in results.points) + len(results.baseline) + 6
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


def _cell(comparison: Comparison | None) -> str:
    text = comparison_text(comparison)
    color = None if comparison is None else _COLORS.get(comparison.verdict)
    return text if color is None else f"[{color}]{text}[/{color}]"


def comparison_text(comparison: Comparison | None) -> str:
    """Format `-6.1` in percent; `(-0.3)` for a tie; `+12 abs.` in the metric's unit if the baseline is 0."""
    if comparison is None:
        return NOTHING
    difference = comparison.difference
    text = f"{difference.mean:+.1f}" if difference.relative else f"{difference.mean:+.3g} abs."
    return f"({text})" if comparison.verdict == TIE else text
