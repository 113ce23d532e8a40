"""Check the targets of the learned router against an evaluation."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rl.evaluate.results import BLIND, LEAST_TOKENS, EvaluationResults, ScenarioResults, ppo_name
from vidur.compare.figures import LONG_PROMPT, metric_title
from vidur.compare.statistics import LOSS, TIE, WIN, PairedDifference
from vidur.compare.tuning import SIZE_SPLIT

# The betas of the targets for mean E2E and for the tail of TTFT.
MEAN_BETA, TAIL_BETA = 5.0, 40.0
# The most that the p99 TTFT of long prompts may be, relative to least_tokens.
LONG_RATIO = 1.5

MET, OPEN, MISSED = "met", "open", "missed"


@dataclass(frozen=True)
class Check:
    """The check of a target in one scenario.

    state: MET, MISSED, or OPEN if the target asks for an improvement and its interval contains 0.
    """

    scenario: str
    state: str
    text: str


@dataclass(frozen=True)
class Target:
    """A target, with one or more checks for each scenario that it applies to."""

    text: str
    checks: Sequence[Check]

    @property
    def state(self) -> str:
        """The worst state of the checks."""
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


def targets(results: EvaluationResults) -> list[Target]:
    """Return every target whose betas were evaluated.

    Targets against the best heuristic are repeated without size_split if that makes a difference.
    """
    default, mean, tail = (
        beta if beta in results.betas else None for beta in (results.default_beta, MEAN_BETA, TAIL_BETA)
    )
    candidates = []
    if default is not None:
        candidates += [_better_than_blind(results, default), _long_prompts(results, default)]
    if tail is not None:
        candidates.append(_mean_at_tail(results, tail))
    for without in ((), (SIZE_SPLIT,)):
        among = "the best heuristic" + (f" but {SIZE_SPLIT}" if without else "")
        if mean is not None:
            candidates += _gains(results, mean, without, among)
            candidates.append(_nowhere_above(results, mean, without, among))
        if tail is not None:
            candidates.append(_tail(results, tail, without, among))
        if mean is not None and tail is not None:
            candidates.append(_adverse(results, mean, tail, without, among))
    with_all = [target.checks for target in candidates if SIZE_SPLIT not in target.text]
    return [
        target
        for target in candidates
        if target.checks and not (SIZE_SPLIT in target.text and target.checks in with_all)
    ]


def _better_than_blind(results: EvaluationResults, beta: float) -> Target:
    checks = []
    for point in results.scenarios:
        for baseline in BLIND:
            for metric in ("mean_e2e", "p99_ttft", "goodput"):
                difference = point.difference(ppo_name(beta), baseline, metric)
                state = {WIN: MET, TIE: OPEN, LOSS: MISSED}[difference.verdict]
                checks.append(
                    Check(point.scenario.name, state, f"{metric_title(metric)} {difference} against {baseline}")
                )
    return Target(f"beta {beta:g}: mean E2E, p99 TTFT and goodput better than those of {' and '.join(BLIND)}", checks)


def _long_prompts(results: EvaluationResults, beta: float) -> Target:
    checks = []
    for point in results.scenarios:
        ratio = point.ratio(ppo_name(beta), LEAST_TOKENS, "long_p99_ttft")
        if not math.isnan(ratio):
            checks.append(Check(point.scenario.name, MET if ratio <= LONG_RATIO else MISSED, f"{ratio:.2f} times"))
    text = f"p99 TTFT of prompts over {LONG_PROMPT:,} tokens within {LONG_RATIO:g} times that of {LEAST_TOKENS}"
    return Target(f"beta {beta:g}: {text}", checks)


def _mean_at_tail(results: EvaluationResults, beta: float) -> Target:
    checks = []
    for point in results.scenarios:
        difference = point.difference(ppo_name(beta), LEAST_TOKENS, "mean_e2e")
        checks.append(Check(point.scenario.name, MET if difference.mean < 0.0 else MISSED, str(difference)))
    return Target(f"beta {beta:g}: mean E2E below that of {LEAST_TOKENS}", checks)


def _gains(results: EvaluationResults, beta: float, without: Collection[str], among: str) -> list[Target]:
    """Return a target for each gain that scenarios require."""
    gains = []
    for gain in sorted({point.scenario.header.gain for point in results.scenarios} - {0.0}):
        checks = []
        for point in results.scenarios:
            if point.scenario.header.gain == gain:
                best, difference = _from_best(point, beta, "mean_e2e", without)
                state = MET if difference.mean <= -gain else MISSED
                checks.append(Check(point.scenario.name, state, f"{difference} against {best}"))
        gains.append(Target(f"beta {beta:g}: mean E2E {gain:g} % below that of {among}", checks))
    return gains


def _nowhere_above(results: EvaluationResults, beta: float, without: Collection[str], among: str) -> Target:
    checks = [_no_worse(point, beta, "mean_e2e", without) for point in results.scenarios]
    return Target(f"beta {beta:g}: mean E2E nowhere above that of {among}", checks)


def _tail(results: EvaluationResults, beta: float, without: Collection[str], among: str) -> Target:
    checks = [_no_worse(point, beta, "p99_ttft", without) for point in results.scenarios]
    return Target(f"beta {beta:g}: p99 TTFT no worse than that of {among}, within its interval", checks)


def _adverse(results: EvaluationResults, mean: float, tail: float, without: Collection[str], among: str) -> Target:
    checks = [
        _no_worse(point, beta, metric, without)
        for point in results.scenarios
        if point.scenario.header.adverse
        for beta, metric in ((mean, "mean_e2e"), (tail, "p99_ttft"))
    ]
    text = f"mean E2E (beta {mean:g}) and p99 TTFT (beta {tail:g}) no worse than those of {among}"
    return Target(f"with KV memory tight and with a replica slowed: {text}", checks)


def _no_worse(point: ScenarioResults, beta: float, metric: str, without: Collection[str]) -> Check:
    best, difference = _from_best(point, beta, metric, without)
    state = MISSED if difference.verdict == LOSS else MET
    return Check(point.scenario.name, state, f"{metric_title(metric)} {difference} against {best}")


def _from_best(
    point: ScenarioResults, beta: float, metric: str, without: Collection[str]
) -> tuple[str, PairedDifference]:
    best = point.best(metric, without)
    return best, point.difference(ppo_name(beta), best, metric)
