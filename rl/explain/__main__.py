"""python -m rl.explain: show which inputs matter to a policy, and how it differs from least_tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vidur.config.base import Config, setting
from vidur.tool import run_tool

if TYPE_CHECKING:
    from rl.explain.findings import Findings

# The number of quantities that are printed; the page has all.
_QUANTITIES = 8


@dataclass(frozen=True)
class ExplainConfig(Config):
    """The policy, and the simulations in which it is observed."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "explain"
    help_description: ClassVar[str] = "the policy, and the simulations in which it is observed"

    checkpoint: str | None = setting(None, help="a file, or a name in data/policies; by default the shipped policy")
    config: str | None = setting(
        None, help="a YAML file of vidur.main, or a cluster of the suite; by default all clusters of the suite"
    )
    suite: str = setting("default", help="clusters, lengths and loads: a name in data/training, or a file")
    beta: float = setting(10.0, help="weight of the tail of TTFT beside mean E2E", minimum=0)
    decisions: int = setting(7200, help="decisions to observe", minimum=100)
    seed: int = setting(0, help="seed of the simulations and permutations", minimum=0, maximum=2**31)
    output: str = setting("simulator_output/explain", help="folder of report.html, or the file itself")


def main(argv: Sequence[str] | None = None) -> int:
    """Explain a policy as the flags say and return the exit status."""
    return run_tool("rl.explain", (ExplainConfig,), explain_policy, argv, description=__doc__ or "")


def explain_policy(config: ExplainConfig) -> None:
    """Observe the policy, print the findings and write the page. Raises InputError."""
    from rl.router.checkpoint import SHIPPED, Checkpoint, policy_path

    checkpoint = Checkpoint.load(policy_path(config.checkpoint))
    # Import numba only after the policy is checked.
    from rl.explain.findings import explain
    from rl.explain.page import write_page
    from rl.explain.states import collect
    from rl.train.suite import TrainingSuite
    from vidur.report.page import page_path

    weights, depth = checkpoint.weights, checkpoint.max_queue_requests
    suite = TrainingSuite.read(config.suite)
    print(f"Observing {config.decisions:,} decisions: about a minute ...", file=sys.stderr, flush=True)
    states = collect(weights, depth, config.config, suite, config.beta, config.decisions, config.seed)
    findings = explain(weights, states, config.seed)
    name = str(config.checkpoint or SHIPPED)
    facts = [("Checkpoint", name), *findings.facts()]
    print_findings(facts, findings)
    page = page_path(config.output)
    write_page(page, f"What {Path(name).stem} has learned", facts, findings)
    print(f"Page: {page}")


def print_findings(facts: Sequence[tuple[str, str]], findings: Findings) -> None:
    """Print the importance of the inputs, then the differences from other schedulers."""
    from rl.explain.findings import CLASS_HEADINGS, IMPORTANCE_HEADINGS, class_rows, importance_rows
    from vidur.compare.console import make_console, make_table

    console = make_console()
    for label, text in facts:
        console.print(f"{label:<12}{text}", soft_wrap=True, markup=False)
    groups, single = importance_rows(findings.by_group), importance_rows(findings.by_quantity[:_QUANTITIES])
    importances = [*groups, *([f"  {name}", *figures] for name, *figures in single)]
    classes = class_rows([*findings.by_class, *findings.by_load])
    for headings, rows in ((IMPORTANCE_HEADINGS, importances), (CLASS_HEADINGS, classes)):
        table = make_table(console, headings)
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
