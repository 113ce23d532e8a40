"""Finished cells on disk, so that a sweep goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from vidur.atomic import write_text
from vidur.compare.cell import Cell, simulate_cell
from vidur.compare.executor import Executor, Failure
from vidur.compare.figures import METRICS, Figures
from vidur.compare.record import CellRecord
from vidur.errors import InputError

Outcome = CellRecord | Failure


class CellStore:
    """A folder of finished cells, one file each, whole or not there."""

    def __init__(self, folder: Path, executor: Executor) -> None:
        self._folder = folder
        self._executor = executor

    def path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.key}.json"

    def load(self, cell: Cell) -> CellRecord | None:
        """The record of a cell that has been finished before; None where there is no whole file of it."""
        try:
            record = CellRecord.from_document(json.loads(self.path(cell).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if record.figures.keys() == set(METRICS) else None

    def save(self, cell: Cell, record: CellRecord) -> None:
        names = {"point": cell.point, "router": cell.router, "seed": cell.seed}
        write_text(self.path(cell), json.dumps({**names, **record.to_document()}, allow_nan=False) + "\n")

    def run(self, cells: Sequence[Cell], on_finished: Callable[[int], None]) -> list[Outcome]:
        """The record of each cell, simulated where it is not on disk, or why there is none.

        `on_finished(count)` counts the different ones up, those on disk at once. A cell that failed is tried again.
        """
        unique = {cell.key: cell for cell in cells}
        found: dict[str, Outcome] = {key: kept for key, cell in unique.items() if (kept := self.load(cell)) is not None}
        on_finished(len(found))
        # The longest first, so that no worker is left alone with one at the end.
        missing = sorted(
            (cell for key, cell in unique.items() if key not in found), key=lambda cell: cell.effort, reverse=True
        )
        for place, outcome in self._executor.run(simulate_cell, missing):
            if isinstance(outcome, CellRecord):
                self.save(missing[place], outcome)
            found[missing[place].key] = outcome
            on_finished(1)
        return [found[cell.key] for cell in cells]


def figures_of_all(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> list[Figures]:
    """Of each cell. Raises InputError, with the command, for one that failed."""
    figures = []
    for cell, outcome in zip(cells, outcomes, strict=True):
        if isinstance(outcome, Failure):
            raise InputError(f"{cell.command}: {outcome.error}")
        figures.append(outcome.figures)
    return figures
