"""The findings as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from rl.explain.findings import Findings
from rl.explain.judgement import LEAST_TOKENS, LOR, POLICY
from vidur.metrics.console import MAX_WIDTH

if TYPE_CHECKING:
    from rich.table import Table

_QUANTITIES = 8


def print_findings(
    facts: Sequence[tuple[str, str]], findings: Findings, said: Sequence[str], file: IO[str] | None = None
) -> None:
    """Print to `file` (standard output if None), in at most MAX_WIDTH columns. said: the paragraphs."""
    from rich.console import Console

    console = Console(file=file, highlight=False, markup=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    for label, text in facts:
        console.print(f"{label:<12}{text}")
    console.print()
    matters = _table("Without what it sees of ...", "advantage lost", "decisions changed")
    for its in [*findings.by_group, *findings.by_quantity[:_QUANTITIES]]:
        name = its.name if its in findings.by_group else f"  {its.name}"
        matters.add_row(name, f"{its.lost:.1f} %", f"{its.changed:.1f} %")
    console.print(matters)
    console.print()
    classes = _table(
        "Prompts, then load", "decisions", "as least_tokens", "as lor", "waste", "of least_tokens", "of lor"
    )
    for figures in [*findings.by_class, *findings.by_load]:
        agreement = [f"{figures.agreement[name]:.0f} %" for name in (LEAST_TOKENS, LOR)]
        waste = [f"{figures.waste[name]:.0f} %" for name in (POLICY, LEAST_TOKENS, LOR)]
        classes.add_row(figures.name, f"{figures.decisions:,}", *agreement, *waste)
    console.print(classes)
    for paragraph in said:
        console.print()
        console.print(paragraph)


def _table(first: str, *numbers: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
