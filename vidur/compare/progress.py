"""How far a sweep is."""

from __future__ import annotations


class SweepProgress:
    """A bar with the time left, on stderr, on a terminal."""

    def __enter__(self) -> SweepProgress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def stage(self, what: str, total: int) -> None:
        """Begin to count anew, up to `total`."""
        self._progress.reset(self._task, description=what, total=total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)
