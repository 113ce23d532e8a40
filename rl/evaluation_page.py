"""report.html of an evaluation."""

from __future__ import annotations

from pathlib import Path

from rl.evaluation_results import Results


def write_page_of_results(path: Path, results: Results) -> None:
    """Write the page."""
