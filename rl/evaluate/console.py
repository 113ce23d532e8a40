"""The results as they are printed."""

from __future__ import annotations

from collections.abc import Sequence

from rl.evaluate.baselines import HEURISTICS, LEAST_TOKENS
from rl.evaluate.results import Results, thresholds_text
from rl.evaluate.targets import MET, targets
from vidur.compare.console import colored, make_console, make_table, print_table
from vidur.compare.figures import metric_title, value_text


def print_details(results: Results, metrics: Sequence[str]) -> None:
    """Every router in every scenario, with its differences from least_tokens."""
    console = make_console()
    for its in results.scenarios:
        title = f"{its.scenario.name}: {its.scenario.title}; {its.scenario.rate:.1f} requests/s; "
        title += f"size_split at {thresholds_text(its.thresholds)}; differences from {LEAST_TOKENS}"
        headings = [name for metric in metrics for name in (metric_title(metric), "")]
        table = make_table(console, ["Router", *headings])
        for router in its.routers:
            cells = []
            for metric in metrics:
                cells.append(value_text(metric, its.mean(router, metric)))
                cells.append("" if router == LEAST_TOKENS else colored(its.difference(router, LEAST_TOKENS, metric)))
            table.add_row(router, *cells, style="" if router in HEURISTICS else "bold")
        print_table(console, title, table)


def print_summary(results: Results) -> None:
    """The learned router beside the best heuristic of each scenario, then the targets."""
    console = make_console()
    for metric in ("mean_e2e", "p99_ttft"):
        headings = ["Scenario", "Best heuristic", metric_title(metric), *results.ppo]
        table = make_table(console, headings)
        for its in results.scenarios:
            best = its.best(metric)
            found = [colored(its.difference(name, best, metric)) for name in results.ppo]
            table.add_row(its.scenario.name, best, value_text(metric, its.mean(best, metric)), *found)
        print_table(console, f"{metric_title(metric)}: differences from the best heuristic", table)
    for target in targets(results):
        console.print(f"{target.verdict}: {target.text}", soft_wrap=True, style="" if target.state == MET else "yellow")
        for check in target.failed:
            console.print(f"    {check.scenario}: {check.text}", soft_wrap=True, markup=False)
