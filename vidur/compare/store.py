"""Store finished cells on disk, so that a stopped sweep can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from vidur.atomic import write_text
from vidur.compare.cell import Cell, simulate_cell
from vidur.compare.executor import Executor, Failure
from vidur.compare.figures import CACHE_METRICS, METRICS, Figures
from vidur.compare.record import CellRecord
from vidur.errors import InputError

Outcome = CellRecord | Failure


class CellStore:
    """A folder of finished cells, one complete file each."""

    def __init__(self, folder: Path, executor: Executor) -> None:
        self._folder = folder
        self._executor = executor

    def path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.key}.json"

    def load(self, cell: Cell) -> CellRecord | None:
        """Return the stored record of a cell, or None."""
        try:
            record = CellRecord.from_document(json.loads(self.path(cell).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return record if record.figures.keys() in (set(METRICS), {*METRICS, *CACHE_METRICS}) else None

    def save(self, cell: Cell, record: CellRecord) -> None:
        names = {"point": cell.point, "router": cell.router, "seed": cell.seed}
        write_text(self.path(cell), json.dumps({**names, **record.to_document()}, allow_nan=False) + "\n")

    def run(self, cells: Sequence[Cell], on_finished: Callable[[int], None]) -> list[Outcome]:
        """Return each cell's record, simulating those not on disk, or its failure.

        `on_finished(count)` reports progress over distinct cells, stored ones first. Failed cells are tried again.
        """
        unique = {cell.key: cell for cell in cells}
        done: dict[str, Outcome] = {key: kept for key, cell in unique.items() if (kept := self.load(cell)) is not None}
        on_finished(len(done))
        # Longest first, so that no worker finishes long after the others.
        missing = sorted(
            (cell for key, cell in unique.items() if key not in done), key=lambda cell: cell.effort, reverse=True
        )
        for index, outcome in self._executor.run(simulate_cell, missing):
            if isinstance(outcome, CellRecord):
                self.save(missing[index], outcome)
            done[missing[index].key] = outcome
            on_finished(1)
        return [done[cell.key] for cell in cells]


def figures_of_all(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> list[Figures]:
    """Return the figures of each cell. Raises InputError, with the command, if one failed."""
    figures = []
    for cell, outcome in zip(cells, outcomes, strict=True):
        if isinstance(outcome, Failure):
            raise InputError(f"{cell.command}: {outcome.error}")
        figures.append(outcome.figures)
    return figures
