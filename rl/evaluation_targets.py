"""What the learned router must reach, checked against an evaluation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rl.baselines import BLIND, LEAST_TOKENS, SIZE_SPLIT
from rl.evaluation_results import Results, ppo_name
from rl.evaluation_statistics import LOSS, WIN, PairedDifference

# Betas for the mean of E2E and for the tail of TTFT.
MEAN_BETA, TAIL_BETA = 5.0, 40.0
# Most that the p99 TTFT of long prompts may be, in times least_tokens'.
LONG_RATIO = 1.5


@dataclass(frozen=True)
class Check:
    """A target in one scenario. text: what was found, for people."""

    scenario: str
    is_met: bool
    text: str


@dataclass(frozen=True)
class Target:
    """text: what is asked. checks: one or more for each scenario."""

    text: str
    checks: Sequence[Check]

    @property
    def is_met(self) -> bool:
        return all(check.is_met for check in self.checks)

    def missed(self) -> list[Check]:
        return [check for check in self.checks if not check.is_met]

    def mark(self) -> str:
        return "met   " if self.is_met else f"missed ({len(self.missed())} of {len(self.checks)})"


def targets(results: Results) -> list[Target]:
    """Every target whose beta was evaluated; those against the best heuristic once with size_split and once without."""
    found = []
    default, betas = results.default_beta, results.betas
    if default in betas:
        found.append(_against_blind(results))
    for without in ((), (SIZE_SPLIT,)):
        among = "the best heuristic" + (f" but {SIZE_SPLIT}" if without else "")
        if MEAN_BETA in betas:
            found += _mean_e2e(results, without, among)
        if TAIL_BETA in betas:
            found.append(_tail(results, without, among))
    if TAIL_BETA in betas:
        found.append(_mean_at_tail(results))
    if default in betas:
        found.append(_long_prompts(results))
    return found


def _against_blind(results: Results) -> Target:
    router = ppo_name(results.default_beta)
    checks = []
    for its in results.scenarios:
        for baseline in BLIND:
            for metric in ("mean_e2e", "p99_ttft", "goodput"):
                found = its.difference(router, baseline, metric)
                text = f"{metric} against {baseline} {_text(found)}"
                checks.append(Check(its.scenario.name, found.verdict == WIN, text))
    text = f"beta {results.default_beta:g}: mean E2E, p99 TTFT and goodput better than those of {' and '.join(BLIND)}"
    return Target(text, checks)


def _mean_e2e(results: Results, without: Collection[str], among: str) -> list[Target]:
    """One target for each gain that scenarios ask for."""
    router = ppo_name(MEAN_BETA)
    found = []
    for gain in sorted({its.scenario.header.gain for its in results.scenarios}, reverse=True):
        checks = []
        for its in results.scenarios:
            if its.scenario.header.gain == gain:
                best = its.best("mean_e2e", without)
                difference = its.difference(router, best, "mean_e2e")
                # Nowhere above: an interval that reaches below 0 is not above.
                is_met = difference.mean <= -gain if gain else difference.mean <= 0.0 or difference.verdict != LOSS
                checks.append(Check(its.scenario.name, is_met, f"{_text(difference)} against {best}"))
        asked = f"at least {gain:g} % below that of" if gain else "not above that of"
        found.append(Target(f"beta {MEAN_BETA:g}: mean E2E {asked} {among}", checks))
    return found


def _tail(results: Results, without: Collection[str], among: str) -> Target:
    router = ppo_name(TAIL_BETA)
    checks = []
    for its in results.scenarios:
        best = its.best("p99_ttft", without)
        found = its.difference(router, best, "p99_ttft")
        checks.append(Check(its.scenario.name, found.verdict != LOSS, f"{_text(found)} against {best}"))
    return Target(f"beta {TAIL_BETA:g}: p99 TTFT no worse than that of {among}, within its interval", checks)


def _mean_at_tail(results: Results) -> Target:
    router = ppo_name(TAIL_BETA)
    checks = []
    for its in results.scenarios:
        found = its.difference(router, LEAST_TOKENS, "mean_e2e")
        checks.append(Check(its.scenario.name, found.mean < 0.0, _text(found)))
    return Target(f"beta {TAIL_BETA:g}: mean E2E below that of {LEAST_TOKENS}", checks)


def _long_prompts(results: Results) -> Target:
    router = ppo_name(results.default_beta)
    checks = []
    for its in results.scenarios:
        ratio = its.ratio(router, LEAST_TOKENS, "long_p99_ttft")
        checks.append(Check(its.scenario.name, not ratio > LONG_RATIO, f"{ratio:.2f} times"))
    return Target(
        f"beta {results.default_beta:g}: p99 TTFT of prompts over 3,000 tokens at most {LONG_RATIO:g} times "
        f"{LEAST_TOKENS}'",
        checks,
    )


def _text(found: PairedDifference) -> str:
    interval = "" if found.low != found.low else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.scaled(found.mean)}{interval}"
