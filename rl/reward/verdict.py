"""Format the figures of a reward, and judge whether it can tell better schedulers and choices from worse ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidur.metrics.text import in_seconds, percent, significant

if TYPE_CHECKING:
    from rl.reward.study import Credit, RewardFigures

# A reward passes if its rank correlation with mean E2E is at least LEAST_TAU, and if at most MOST_DECISIONS suffice to
# show the correlation of advantages with a decision's own reward or with those that follow.
LEAST_TAU = 0.6
MOST_DECISIONS = 10_000


def verdict(figures: RewardFigures) -> str:
    """Return `yes` if the reward passes, or `no` with the reasons."""
    reasons = []
    if figures.tau_e2e is not None and figures.tau_e2e < LEAST_TAU:
        reasons.append(f"it ranks the schedulers differently from mean E2E (tau {figures.tau_e2e:+.2f})")
    credit = figures.credit
    if not any(credit.decisions(rho) <= MOST_DECISIONS for rho in (credit.own, credit.following)):
        reasons.append(f"the advantage of a choice does not show within {MOST_DECISIONS:,} decisions")
    return "yes" if not reasons else "no: " + ", and ".join(reasons)


HEADINGS = (
    "Scheduler", "mean E2E", "p99 TTFT", "raw", "scaled", "clipped", "std", "at low", "at high", "below ceiling",
)  # fmt: skip


def rows(figures: RewardFigures) -> list[list[str]]:
    """Format each scheduler's figures for the columns of HEADINGS."""
    return [
        [
            own.scheduler,
            in_seconds(own.mean_e2e),
            in_seconds(own.p99_ttft),
            signed(own.raw.mean()),
            signed(own.scaled.mean()),
            signed(own.clipped.mean()),
            significant(own.std),
            percent(own.share_low),
            percent(own.share_high),
            significant(own.gap),
        ]
        for own in figures.schedulers
    ]


def facts(figures: RewardFigures) -> list[tuple[str, str]]:
    """Format the reward's figures as (label, text)."""
    return [
        ("Ceiling", f"{signed(figures.ceiling)}, the highest clipped reward of any decision"),
        ("Ranks as mean E2E", f"{_tau_text(figures.tau_e2e)}; as mean cost: {_tau_text(figures.tau_cost)}"),
        ("Best over worst", f"{signed(figures.best_over_worst)} standard deviations of a decision's reward"),
        ("Marginal cost", f"correlation {figures.cost_correlation:+.3f}"),
        ("Advantage", _credit_text(figures.credit)),
        ("Advantage, centred", _credit_text(figures.centred_credit)),
        ("Tells better from worse", verdict(figures)),
    ]


def _tau_text(tau: float | None) -> str:
    return "the schedulers do not differ" if tau is None else f"tau {tau:+.2f}"


def _credit_text(credit: Credit) -> str:
    def text(rho: float) -> str:
        shown = f"{credit.decisions(rho):,.0f} decisions" if credit.shows(rho) else f"not in {credit.count:,} decisions"
        return f"{rho:+.3f} ({shown})"

    return f"in its own reward {text(credit.own)}; in those that follow {text(credit.following)}"


def signed(value: float) -> str:
    text = significant(abs(float(value)))
    return text if text == "0" else f"{'+' if value > 0 else '-'}{text}"
