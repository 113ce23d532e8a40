"""Show the progress of long work on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

T = TypeVar("T")

# Seconds between lines if stderr is not a terminal, and between redraws of the bar if it is.
LINE_EVERY, _DRAW_EVERY = 15.0, 0.1
# Shorter work shows no bar.
_BAR_AFTER = 1.0


class Progress:
    """A progress bar on a terminal; elsewhere a line every `every` seconds.

    No thread draws it: call `update` or `advance` on progress, and `tick` while waiting. Nested and successive work
    shares a clock; work inside other work that has a bar shows none.
    """

    _shown: ClassVar[float] = 0.0  # time of the last output of any work
    _ticked: ClassVar[float] = 0.0
    _drawn: ClassVar[Progress | None] = None

    def __init__(
        self, what: str = "", total: int | None = None, done: int = 0, *,
        file: IO[str] | None = None, every: float = LINE_EVERY,
    ) -> None:  # fmt: skip
        """what: the items that are counted, as `requests finished`. done: items of the total done earlier."""
        self._file = sys.stderr if file is None else file
        self._every = every
        self._bar: RichProgress | None = None
        self.stage(what, total, done)

    def __enter__(self) -> Progress:
        now = self._stage_begun = time.monotonic()
        if now - Progress._ticked >= self._every:
            Progress._shown = now
        Progress._ticked = now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = Progress._drawn = None

    def stage(self, what: str, total: int | None = None, done: int = 0) -> None:
        """Start counting another kind of item, up to `total`."""
        self._what, self._total, self._done, self._begun_with = what, total, done, done
        self._note = ""
        self._stage_begun = time.monotonic()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, counting each as done when the next is requested."""
        with self:
            for item in items:
                yield item
                self.advance()

    def advance(self, count: int = 1) -> None:
        self.update(self._done + count)

    def update(self, done: int, note: str = "") -> None:
        """Set the number of items done; `note` is shown behind it."""
        self._done, self._note = done, note or self._note
        self.tick()

    def tick(self) -> None:
        """Show the progress if it is time to."""
        now = Progress._ticked = time.monotonic()
        if self._file.isatty():
            due = _BAR_AFTER if self._bar is None else _DRAW_EVERY
            if Progress._drawn in (None, self) and now - Progress._shown >= due:
                Progress._shown = now
                self._draw()
        elif now - Progress._shown >= self._every:
            Progress._shown = now
            print(self.text(), file=self._file, flush=True)

    def text(self) -> str:
        """Return `12 of 240 simulations, 3 min 20 s left` and the note."""
        of = f" of {self._total:,}" if self._total is not None else ""
        parts = [f"{self._done:,}{of} {self._what}"]
        done, elapsed = self._done - self._begun_with, time.monotonic() - self._stage_begun
        if self._total is not None and done > 0:
            parts.append(f"{clock(elapsed / done * max(self._total - self._done, 0))} left")
        elif elapsed >= 1.0:
            parts.append(f"{clock(elapsed)} so far")
        return ", ".join([*parts, *([self._note] if self._note else [])])

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        if self._bar is None:
            self._bar = RichProgress(
                BarColumn(), TextColumn("{task.description}", markup=False), console=Console(file=self._file),
                transient=True, auto_refresh=False,
            )  # fmt: skip
            self._task = self._bar.add_task("")
            self._bar.start()
            Progress._drawn = self
        self._bar.update(self._task, total=self._total, completed=self._done, description=self.text(), refresh=True)


def clock(seconds: float) -> str:
    """Format a duration: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
