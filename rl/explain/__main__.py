"""python -m rl.explain: what a policy looks at, and what it does differently from least_tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.metrics.text import plural
from vidur.tool import run_tool


@dataclass(frozen=True)
class ExplainConfig(Config):
    """Which policy, and where it is watched."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "explain"
    help_description: ClassVar[str] = "the policy, and the simulations in which it is watched"

    checkpoint: str | None = setting(None, help="a file, or a name in data/policies; the shipped policy if none")
    config: str | None = setting(
        None, help="a YAML file of vidur.main, or a cluster of the suite; all clusters of the suite if none"
    )
    suite: str = setting(
        "default", help="where clusters, lengths and loads come from: a name in data/training, or a file"
    )
    beta: float = setting(10.0, help="weight of the tail of TTFT beside mean E2E", minimum=0)
    decisions: int = setting(7200, help="decisions that are looked at", minimum=100)
    seed: int = setting(0, help="of the simulations and of the permutations", minimum=0, maximum=2**31)
    output: str = setting("simulator_output/explain", help="folder of report.html, or the file itself")


def main(argv: Sequence[str] | None = None) -> int:
    """Explain a policy on the screen and in a page. Returns the exit status of `run_tool`."""
    return run_tool("rl.explain", (ExplainConfig,), explain_policy, argv, description=__doc__ or "")


def explain_policy(config: ExplainConfig) -> None:
    """Raises InputError."""
    from rl.router.checkpoint import SHIPPED, Checkpoint, policy_path

    path = policy_path(config.checkpoint)
    checkpoint = Checkpoint.load(path)
    from rl.explain.findings import explain
    from rl.explain.page import write_page
    from rl.explain.screen import print_findings
    from rl.explain.states import collect
    from rl.explain.words import sentences
    from rl.train.suite import TrainingSuite
    from vidur.report.page import page_path

    weights, depth = checkpoint.weights, checkpoint.max_queue_requests
    suite = TrainingSuite.read(config.suite)
    print(f"Watching {config.decisions:,} decisions: about a minute ...", file=sys.stderr, flush=True)
    states = collect(weights, depth, config.config, suite, config.beta, config.decisions, config.seed)
    findings = explain(weights, states, config.seed)
    said = sentences(findings)
    name = config.checkpoint or SHIPPED
    facts = [
        ("Checkpoint", str(name)),
        ("Watched on", ", ".join(findings.clusters)),
        (
            "Decisions",
            f"{findings.decisions:,} in {plural(findings.simulations, 'simulation')}, beta {findings.beta:g}",
        ),
    ]
    print_findings(facts, findings, said)
    page = page_path(config.output)
    write_page(page, f"What {Path(name).stem} has learned", facts, findings, said)
    print(f"Page: {page}")


if __name__ == "__main__":
    sys.exit(main())
