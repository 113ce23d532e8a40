"""The results as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidur.compare.statistics import LOSS, WIN, PairedDifference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

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
        console.width = 200
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
