"""Progress over slow steps: a bar on a terminal, else a log line for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


def steps(items: Sequence[T], title: str, name: Callable[[T], str]) -> Iterator[T]:
    """Yield the items, showing on stderr which one is being worked on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        for number, item in enumerate(items, start=1):
            logger.info("%s: %s (%d of %d)", title, name(item), number, len(items))
            yield item
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"), console=console, transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task(title, total=len(items), at="")
        for item in items:
            progress.update(task, at=name(item))
            yield item
            progress.advance(task)
