"""Write report.html of an evaluation: the page of a sweep, plus the targets of the learned router."""

from __future__ import annotations

from pathlib import Path

from rl.evaluate.chart import chart_svg, themed
from rl.evaluate.results import EvaluationResults, thresholds_text
from rl.evaluate.targets import MET, targets
from vidur.compare.report import write_report
from vidur.compare.results import Results
from vidur.compare.tuning import SIZE_SPLIT
from vidur.report import Markup, Table
from vidur.report.markup import markup
from vidur.report.page import Part


def write_page_of_results(path: Path, results: EvaluationResults, compared: Results) -> None:
    """Write the page of `results`, which were computed from the sweep `compared`."""
    write_report(path, compared, [_targets(results), _chart(results)])


def _targets(results: EvaluationResults) -> tuple[str, list[Part]]:
    checked = targets(results)
    met = sum(target.state == MET for target in checked)
    rows = [
        [target.verdict, target.text,
         Markup("<br>".join(markup(f"{check.scenario}: {check.text}") for check in target.failed))]
        for target in checked
    ]  # fmt: skip
    return f"Targets: {met} of {len(checked)} met", [Table(["Verdict", "Target", "Not met"], rows, 3)] if rows else []


def _chart(results: EvaluationResults) -> tuple[str, list[Part]]:
    tuned = "; ".join(f"{point.scenario.name} {thresholds_text(point.thresholds)}" for point in results.scenarios)
    note = (
        "Differences in percent with Student's intervals at 95 %: the learned router at each beta, and the best "
        f"heuristic of each scenario. {SIZE_SPLIT} is tuned to each: {tuned}."
    )
    return "Against least_tokens", [note, Markup(f"<div class='chart'>{themed(chart_svg(results))}</div>")]
