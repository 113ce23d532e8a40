"""Print the results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from rl.evaluate.results import HEURISTICS, LEAST_TOKENS, EvaluationResults, thresholds_text
from rl.evaluate.targets import MET, targets
from vidur.compare.console import colored, make_console, make_table, print_table
from vidur.compare.figures import metric_title, value_text


def print_details(results: EvaluationResults, metrics: Sequence[str]) -> None:
    """Print every router in every scenario, with its differences from least_tokens."""
    console = make_console()
    for point in results.scenarios:
        title = f"{point.scenario.name}: {point.scenario.title}; {point.scenario.rate:.1f} requests/s; "
        title += f"size_split at {thresholds_text(point.thresholds)}; differences from {LEAST_TOKENS}"
        headings = [name for metric in metrics for name in (metric_title(metric), "")]
        table = make_table(console, ["Router", *headings])
        for router in point.routers:
            cells = []
            for metric in metrics:
                cells.append(value_text(metric, point.mean(router, metric)))
                cells.append("" if router == LEAST_TOKENS else colored(point.difference(router, LEAST_TOKENS, metric)))
            table.add_row(router, *cells, style="" if router in HEURISTICS else "bold")
        print_table(console, title, table)


def print_summary(results: EvaluationResults) -> None:
    """Print the learned router beside each scenario's best heuristic, then the targets."""
    console = make_console()
    for metric in ("mean_e2e", "p99_ttft"):
        headings = ["Scenario", "Best heuristic", metric_title(metric), *results.ppo]
        table = make_table(console, headings)
        for point in results.scenarios:
            best = point.best(metric)
            differences = [colored(point.difference(name, best, metric)) for name in results.ppo]
            table.add_row(point.scenario.name, best, value_text(metric, point.mean(best, metric)), *differences)
        print_table(console, f"{metric_title(metric)}: differences from the best heuristic", table)
    for target in targets(results):
        console.print(f"{target.verdict}: {target.text}", soft_wrap=True, style="" if target.state == MET else "yellow")
        for check in target.failed:
            console.print(f"    {check.scenario}: {check.text}", soft_wrap=True, markup=False)
