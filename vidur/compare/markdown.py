"""Write the results of a sweep as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from vidur.compare.console import comparison_text, notes
from vidur.compare.figures import WARM_UP, metric_title, value_text
from vidur.compare.results import Comparison, Results
from vidur.compare.statistics import TIE
from vidur.metrics.text import NOTHING, percent


def markdown(results: Results) -> str:
    """Return a summary for a README: how it was made, then a table of scenario x scheduler in the headline metric."""
    headline = metric_title(results.metric)
    counts = sorted({len(point.seeds) for point in results.points})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = (
        f"{results.title}, {results.date}, on {results.machine}, by `{results.command}`: {headline} of each scheduler, "
        f"difference from `{results.baseline}` in percent. {seeds} seeds of {results.requests:,} requests and more, "
        "every scheduler on the same arrivals and lengths, the first and the last "
        f"{percent(WARM_UP, 0)} of the requests left out. Bold: a difference that holds against all the comparisons of "
        "its row (95 %, bootstrap over seeds, Holm); in brackets: a tie."
    )
    if results.policies:
        policies = ", ".join(sorted({f"`{digest[:16]}`" for digest in results.policies.values()}))
        text += f" Policy: {policies}."
    headings = ["scenario", f"`{results.baseline}`", *(f"`{name}`" for name in results.others)]
    rows = []
    for point in results.points:
        mean = point.mean(results.baseline, results.metric)
        row = [point.scenario.label, value_text(results.metric, mean.mean) if mean is not None else NOTHING]
        row += [_cell(results.comparison(point, name, results.metric)) for name in results.others]
        rows.append(row)
    parts = [text, markdown_table(headings, rows), *(f"- {line}" for line in notes(results))]
    return "\n\n".join(parts) + "\n"


def _cell(comparison: Comparison | None) -> str:
    text = comparison_text(comparison)
    return text if comparison is None or comparison.verdict == TIE else f"**{text}**"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
