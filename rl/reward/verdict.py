"""The figures of a reward as texts: of each scheduler, and whether the reward sees an improvement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidur.metrics.text import in_seconds, percent, significant

if TYPE_CHECKING:
    from rl.reward.study import Credit, RewardFigures

# The verdict: a reward sees an improvement if it ranks the schedulers at least so much like mean E2E does, and what a
# random choice was worth shows after at most so many decisions, in its own reward or in those that follow it.
LEAST_TAU = 0.6
MOST_DECISIONS = 10_000


def verdict(figures: RewardFigures) -> str:
    """Whether the reward sees an improvement, and if not, why."""
    reasons = []
    if figures.tau_e2e is not None and figures.tau_e2e < LEAST_TAU:
        reasons.append(f"it ranks the schedulers otherwise than mean E2E (tau {figures.tau_e2e:+.2f})")
    credit = figures.credit
    if not any(credit.decisions(rho) <= MOST_DECISIONS for rho in (credit.own, credit.following)):
        reasons.append(f"what a choice was worth does not show within {MOST_DECISIONS:,} decisions")
    return "yes" if not reasons else "no: " + ", and ".join(reasons)


HEADINGS = (
    "Scheduler", "mean E2E", "p99 TTFT", "raw", "scaled", "clipped", "std", "at low", "at high", "below ceiling",
)  # fmt: skip


def rows(figures: RewardFigures) -> list[list[str]]:
    """The figures of each scheduler as texts, under HEADINGS."""
    return [
        [
            its.scheduler,
            in_seconds(its.mean_e2e),
            in_seconds(its.p99_ttft),
            signed(its.raw.mean()),
            signed(its.scaled.mean()),
            signed(its.clipped.mean()),
            significant(its.std),
            percent(its.share_low),
            percent(its.share_high),
            significant(its.gap),
        ]
        for its in figures.schedulers
    ]


def facts(figures: RewardFigures) -> list[tuple[str, str]]:
    """What the reward sees, one line each: (label, text)."""
    return [
        ("Ceiling", f"{signed(figures.ceiling)}, the highest clipped reward of any decision"),
        ("Ranks as mean E2E", f"{_tau_text(figures.tau_e2e)}; as mean cost: {_tau_text(figures.tau_cost)}"),
        ("Best over worst", f"{signed(figures.best_over_worst)} standard deviations of a decision's reward"),
        ("Marginal cost", f"correlation {figures.cost_correlation:+.3f}"),
        ("Worth of a choice", _credit_text(figures.credit)),
        ("The same, centred", _credit_text(figures.centred_credit)),
        ("Sees an improvement", verdict(figures)),
    ]


def _tau_text(tau: float | None) -> str:
    return "they do not differ" if tau is None else f"tau {tau:+.2f}"


def _credit_text(credit: Credit) -> str:
    def one(rho: float) -> str:
        seen = f"{credit.decisions(rho):,.0f} decisions" if credit.shows(rho) else f"not in {credit.count:,} decisions"
        return f"{rho:+.3f} ({seen})"

    return f"in its own reward {one(credit.own)}; in those that follow {one(credit.following)}"


def signed(value: float) -> str:
    text = significant(abs(float(value)))
    return text if text == "0" else f"{'+' if value > 0 else '-'}{text}"
