"""report.html of an evaluation: that of a sweep, with the targets of the learned router."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from rl.evaluate.baselines import LEAST_TOKENS, SIZE_SPLIT
from rl.evaluate.chart import chart_svg, themed
from rl.evaluate.results import Results, thresholds_text
from rl.evaluate.targets import MET, targets
from vidur.compare import results as sweep_results
from vidur.compare.cell import Cell
from vidur.compare.record import CellRecord
from vidur.compare.report import write_report
from vidur.report import Markup, Table
from vidur.report.markup import markup
from vidur.report.page import Part


def write_page_of_results(path: Path, results: Results, cells: Sequence[Cell], records: Sequence[CellRecord]) -> None:
    """cells, records: the simulations that the results are of, in the same order."""
    its_records: dict[str, dict[str, dict[int, CellRecord]]] = {}
    commands: dict[str, dict[str, dict[int, str]]] = {}
    for cell, record in zip(cells, records, strict=True):
        its_records.setdefault(cell.point, {}).setdefault(cell.router, {})[cell.seed] = record
        commands.setdefault(cell.point, {}).setdefault(cell.router, {})[cell.seed] = cell.command
    scenarios = [its.scenario for its in results.scenarios]
    sweep = sweep_results.Results(
        title="The learned router and the heuristics",
        points=[
            sweep_results.PointResults(one, its_records[one.name], commands[one.name], results.seeds)
            for one in scenarios
        ],
        schedulers=results.scenarios[0].routers,
        baseline=LEAST_TOKENS,
        metric="mean_e2e",
        requests=results.requests,
        command=results.command,
        date=date.today().isoformat(),
        machine=sweep_results.machine_text(),
        policies=dict.fromkeys(results.ppo, results.policy_hash),
        failures=(),
    )
    write_report(path, sweep, [_targets(results), _chart(results)])


def _targets(results: Results) -> tuple[str, list[Part]]:
    found = targets(results)
    met = sum(target.state == MET for target in found)
    rows = [
        [target.verdict, target.text,
         Markup("<br>".join(markup(f"{check.scenario}: {check.text}") for check in target.failed))]
        for target in found
    ]  # fmt: skip
    return f"Targets: {met} of {len(found)} met", [Table(["Verdict", "Target", "Where not"], rows, 3)] if rows else []


def _chart(results: Results) -> tuple[str, list[Part]]:
    """The intervals of the chart are Student's, of one comparison each."""
    tuned = "; ".join(f"{its.scenario.name} {thresholds_text(its.thresholds)}" for its in results.scenarios)
    note = (
        "Differences in percent with Student's intervals at 95 %: the learned router at each beta, and the best "
        f"heuristic of each scenario. {SIZE_SPLIT} is tuned to each: {tuned}."
    )
    return "Against least_tokens", [note, Markup(f"<div class='chart'>{themed(chart_svg(results))}</div>")]
