"""What the learned router must reach, checked against an evaluation."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rl.evaluate.baselines import BLIND, LEAST_TOKENS, SIZE_SPLIT
from rl.evaluate.results import Results, ScenarioResults, ppo_name
from vidur.compare.figures import LONG_PROMPT, metric_title
from vidur.compare.statistics import LOSS, TIE, WIN, PairedDifference

# Betas for the mean of E2E and for the tail of TTFT.
MEAN_BETA, TAIL_BETA = 5.0, 40.0
# Most that the p99 TTFT of long prompts may be, in times least_tokens'.
LONG_RATIO = 1.5

MET, OPEN, MISSED = "met", "open", "missed"


@dataclass(frozen=True)
class Check:
    """A target in one scenario. state: MET, MISSED, or OPEN where better is asked and the interval holds 0.
    text: what was found, for people."""

    scenario: str
    state: str
    text: str


@dataclass(frozen=True)
class Target:
    """text: what is asked. checks: one or more for each scenario that it is asked of."""

    text: str
    checks: Sequence[Check]

    @property
    def state(self) -> str:
        """The worst of the checks'."""
        return max((check.state for check in self.checks), key=(MET, OPEN, MISSED).index)

    @property
    def verdict(self) -> str:
        """`missed in 2 of 14`, or `met`."""
        counts = {state: sum(check.state == state for check in self.checks) for state in (MISSED, OPEN)}
        shares = [f"{state} in {count} of {len(self.checks)}" for state, count in counts.items() if count]
        return ", ".join(shares) or MET

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.state != MET]


def targets(results: Results) -> list[Target]:
    """Every target whose betas were evaluated; those against the best heuristic once more without size_split, where
    that changes something."""
    default, mean, tail = (
        beta if beta in results.betas else None for beta in (results.default_beta, MEAN_BETA, TAIL_BETA)
    )
    found = []
    if default is not None:
        found += [_better_than_blind(results, default), _long_prompts(results, default)]
    if tail is not None:
        found.append(_mean_at_tail(results, tail))
    for without in ((), (SIZE_SPLIT,)):
        among = "the best heuristic" + (f" but {SIZE_SPLIT}" if without else "")
        if mean is not None:
            found += _gains(results, mean, without, among)
            found.append(_nowhere_above(results, mean, without, among))
        if tail is not None:
            found.append(_tail(results, tail, without, among))
        if mean is not None and tail is not None:
            found.append(_adverse(results, mean, tail, without, among))
    asked_of_all = [target.checks for target in found if SIZE_SPLIT not in target.text]
    return [
        target
        for target in found
        if target.checks and not (SIZE_SPLIT in target.text and target.checks in asked_of_all)
    ]


def _better_than_blind(results: Results, beta: float) -> Target:
    checks = []
    for its in results.scenarios:
        for baseline in BLIND:
            for metric in ("mean_e2e", "p99_ttft", "goodput"):
                found = its.difference(ppo_name(beta), baseline, metric)
                state = {WIN: MET, TIE: OPEN, LOSS: MISSED}[found.verdict]
                checks.append(Check(its.scenario.name, state, f"{metric_title(metric)} {found} against {baseline}"))
    return Target(f"beta {beta:g}: mean E2E, p99 TTFT and goodput better than those of {' and '.join(BLIND)}", checks)


def _long_prompts(results: Results, beta: float) -> Target:
    checks = []
    for its in results.scenarios:
        ratio = its.ratio(ppo_name(beta), LEAST_TOKENS, "long_p99_ttft")
        if not math.isnan(ratio):
            checks.append(Check(its.scenario.name, MET if ratio <= LONG_RATIO else MISSED, f"{ratio:.2f} times"))
    asked = f"p99 TTFT of prompts over {LONG_PROMPT:,} tokens within {LONG_RATIO:g} times that of {LEAST_TOKENS}"
    return Target(f"beta {beta:g}: {asked}", checks)


def _mean_at_tail(results: Results, beta: float) -> Target:
    checks = []
    for its in results.scenarios:
        found = its.difference(ppo_name(beta), LEAST_TOKENS, "mean_e2e")
        checks.append(Check(its.scenario.name, MET if found.mean < 0.0 else MISSED, str(found)))
    return Target(f"beta {beta:g}: mean E2E below that of {LEAST_TOKENS}", checks)


def _gains(results: Results, beta: float, without: Collection[str], among: str) -> list[Target]:
    """One target for each gain that scenarios ask for."""
    found = []
    for gain in sorted({its.scenario.header.gain for its in results.scenarios} - {0.0}):
        checks = []
        for its in results.scenarios:
            if its.scenario.header.gain == gain:
                best, difference = _from_best(its, beta, "mean_e2e", without)
                state = MET if difference.mean <= -gain else MISSED
                checks.append(Check(its.scenario.name, state, f"{difference} against {best}"))
        found.append(Target(f"beta {beta:g}: mean E2E {gain:g} % below that of {among}", checks))
    return found


def _nowhere_above(results: Results, beta: float, without: Collection[str], among: str) -> Target:
    checks = [_no_worse(its, beta, "mean_e2e", without) for its in results.scenarios]
    return Target(f"beta {beta:g}: mean E2E nowhere above that of {among}", checks)


def _tail(results: Results, beta: float, without: Collection[str], among: str) -> Target:
    checks = [_no_worse(its, beta, "p99_ttft", without) for its in results.scenarios]
    return Target(f"beta {beta:g}: p99 TTFT no worse than that of {among}, within its interval", checks)


def _adverse(results: Results, mean: float, tail: float, without: Collection[str], among: str) -> Target:
    checks = [
        _no_worse(its, beta, metric, without)
        for its in results.scenarios
        if its.scenario.header.adverse
        for beta, metric in ((mean, "mean_e2e"), (tail, "p99_ttft"))
    ]
    asked = f"mean E2E (beta {mean:g}) and p99 TTFT (beta {tail:g}) no worse than those of {among}"
    return Target(f"with KV memory tight and with a replica slowed: {asked}", checks)


def _no_worse(its: ScenarioResults, beta: float, metric: str, without: Collection[str]) -> Check:
    best, found = _from_best(its, beta, metric, without)
    state = MISSED if found.verdict == LOSS else MET
    return Check(its.scenario.name, state, f"{metric_title(metric)} {found} against {best}")


def _from_best(
    its: ScenarioResults, beta: float, metric: str, without: Collection[str]
) -> tuple[str, PairedDifference]:
    best = its.best(metric, without)
    return best, its.difference(ppo_name(beta), best, metric)
