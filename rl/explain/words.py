"""What the findings say, in sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rl.explain.findings import ClassFigures, Findings
from rl.explain.judgement import LEAST_TOKENS, LOR, POLICY, RANDOM
from rl.explain.sweeps import LONG, SHORT, Curve, Importance
from vidur.metrics.text import plural, significant

# Percent. Less than this is nothing; a share that differs from another by this part of it is another.
_NOTHING = 1.0
_APART = 0.8


def sentences(findings: Findings) -> list[str]:
    """A paragraph for each question."""
    return [
        _summary(findings),
        _what_matters(findings),
        _responses(findings.curves),
        _agreement(findings),
        _specialisation(findings),
        _beta(findings),
        "These are single choices in the states that the policy itself brings about, judged as if no request came "
        "after them: another router would see other states. What a router does to whole runs, only runs tell.",
    ]


def _summary(findings: Findings) -> str:
    waste, (apart, half) = findings.waste, findings.difference
    watched = f"{findings.decisions:,} decisions of {plural(findings.simulations, 'simulation')}"
    text = (
        f"In {watched} at beta {findings.beta:g}, the policy's choices waste {waste[POLICY]:.0f} %: 0 is the best "
        f"choice in hindsight, 100 is chance. In the same states least_tokens would waste {waste[LEAST_TOKENS]:.0f} % "
        f"and lor {waste[LOR]:.0f} %."
    )
    if np.isnan(half):
        return text
    if abs(apart) <= half:
        return (
            f"{text} Over the simulations the policy and least_tokens cannot be told apart ({apart:+.0f} ± {half:.0f})."
        )
    better = "less" if apart < 0 else "more"
    return f"{text} The policy wastes {better} than least_tokens by {abs(apart):.0f} ± {half:.0f} points (95 %)."


def _what_matters(findings: Findings) -> str:
    if findings.waste[POLICY] >= 100:
        return "It is no better than chance on its own path, so nothing that it sees can be said to matter."
    groups = [its for its in findings.by_group if its.lost >= _NOTHING]
    things = [its for its in findings.by_quantity if its.lost >= _NOTHING][:5]
    idle = [its.name for its in findings.by_quantity if abs(its.lost) < _NOTHING and its.changed < _NOTHING]
    if not groups:
        return "None of what it sees matters by itself: what it gains comes from somewhere else."
    first, *others = groups
    text = (
        f"It looks above all at the {first.name}: {first.note}. With that of another state in its place it would lose "
        f"{first.lost:.0f} % of its advantage over chance"
    )
    text += f"; {_listed(others)}." if others else "."
    if things:
        text += f" One by one: {_listed(things)}."
    if idle:
        text += f" Nearly nothing changes without: {', '.join(idle)}."
    return text


def _listed(items: Sequence[Importance]) -> str:
    return ", ".join(f"{its.name} {its.lost:.0f} %" for its in items)


def _responses(curves: Sequence[Curve]) -> str:
    if not curves:
        return "Nothing about a single replica changes its decisions."
    parts = []
    for curve in curves:
        short, long = curve.chosen[SHORT], curve.chosen[LONG]
        low, high = significant(float(curve.values[0])), significant(float(curve.values[-1]))
        unit = curve.quantity.unit
        parts.append(
            f"{curve.quantity.name}, from {low} to {high} {unit}: {short[0]:.0f} to {short[-1]:.0f} % for a short "
            f"arrival, {long[0]:.0f} to {long[-1]:.0f} % for a long one"
        )
    return f"How often a replica is chosen, if one thing about it is changed: {'; '.join(parts)}."


def _agreement(findings: Findings) -> str:
    by_agreement = sorted(findings.by_class, key=lambda its: its.agreement[LEAST_TOKENS])
    least, most = by_agreement[0], by_agreement[-1]
    same = findings.agreement
    return (
        f"It does as least_tokens in {same[LEAST_TOKENS]:.0f} % of the decisions, and as lor in {same[LOR]:.0f} % "
        f"(chance: {same[RANDOM]:.0f} %). With least_tokens it agrees most on prompts of {_tokens(most)} "
        f"({most.agreement[LEAST_TOKENS]:.0f} %) and least on prompts of {_tokens(least)} "
        f"({least.agreement[LEAST_TOKENS]:.0f} %), where its choices waste {least.waste[POLICY]:.0f} % and those of "
        f"least_tokens {least.waste[LEAST_TOKENS]:.0f} %."
    )


def _tokens(figures: ClassFigures) -> str:
    name = figures.name.removeprefix("of these ")
    return name if name.endswith("tokens") else f"{name} tokens"


def _specialisation(findings: Findings) -> str:
    short, long = (findings.by_class[place].to_longest for place in (0, min(3, len(findings.by_class) - 1)))
    apart = long[POLICY] * _APART > short[POLICY]
    as_much = long[POLICY] - short[POLICY] <= long[LEAST_TOKENS] - short[LEAST_TOKENS]
    verdict = f"it serves short {'prompts apart from' if apart else 'and'} long ones{'' if apart else ' together'}"
    verdict += ", no more than least_tokens would" if apart and as_much else ""
    policy, theirs = (findings.roles.shares[name] for name in (POLICY, LEAST_TOKENS))
    half = policy.shape[1] // 2
    few = "the replica" if half == 1 else f"the {half} replicas"
    return (
        f"Of the longest quarter of the prompts {_shares(long)} go to the replica that has the longest requests, of "
        f"the shortest quarter {_shares(short)}: {verdict}. On {findings.roles.cluster}, {few} of {policy.shape[1]} "
        f"with the shortest prompts get {policy[0, :half].sum():.0f} % of the shortest quarter and "
        f"{policy[-1, :half].sum():.0f} % of the longest; under least_tokens {theirs[0, :half].sum():.0f} % and "
        f"{theirs[-1, :half].sum():.0f} %."
    )


def _shares(of: Mapping[str, float]) -> str:
    return f"{of[POLICY]:.0f} % (least_tokens {of[LEAST_TOKENS]:.0f} %, chance {of[RANDOM]:.0f} %)"


def _beta(findings: Findings) -> str:
    its = findings.by_beta
    return (
        f"From beta {its.betas[0]:g} to {its.betas[-1]:g} the decisions that go to the replica with the least to read "
        f"go from {its.least_backlog[0]:.0f} to {its.least_backlog[-1]:.0f} %, those that are least_tokens' from "
        f"{its.as_least_tokens[0]:.0f} to {its.as_least_tokens[-1]:.0f} %. What a decision adds to the TTFT of all "
        f"requests goes from {its.ttft[0]:.3g} to {its.ttft[-1]:.3g} s, what it adds to their E2E from "
        f"{its.e2e[0]:.3g} to {its.e2e[-1]:.3g} s."
    )
