"""Compute everything that is reported of a policy from states that it visited."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.explain.choices import LEAST_TOKENS, LOR, POLICY, Decisions, Judged
from rl.explain.quantities import GROUPS, quantities
from rl.explain.states import States
from rl.explain.sweeps import (
    ByBeta,
    ByPrompt,
    Curve,
    Importance,
    by_beta,
    by_prompt,
    curve,
    feature_importances,
    importance,
)
from rl.router.policy import PolicyWeights
from vidur.metrics.text import plural
from vidur.observation import Floats

LONG_PROMPT = 3000
_CURVES = 4
# The least percentage of decisions that a quantity must change to get a curve.
_LEAST_CHANGED = 1.0
# The least decisions of a class in a simulation from which to tell how it is spread over replicas.
_LEAST_DECISIONS = 10


@dataclass(frozen=True)
class ClassFigures:
    """Figures of a class of decisions, by scheduler.

    regret: mean, percent; agreement: percent of decisions in which the policy does the same; to_longest: percent that
    go to the replica with the longest requests; busiest: mean over simulations of the busiest replica's requests
    relative to an equal share, where each scheduler routes its own simulation.
    """

    name: str
    decisions: int
    regret: Mapping[str, float]
    agreement: Mapping[str, float]
    to_longest: Mapping[str, float]
    busiest: Mapping[str, float]


@dataclass(frozen=True)
class Roles:
    """The spread of prompt classes over a cluster: percent of class k at replica r, [K, R], by scheduler.

    Each scheduler routes its own simulation. Replicas are ordered by the mean prompt that they got.
    """

    cluster: str
    classes: list[str]
    shares: Mapping[str, Floats]


@dataclass(frozen=True)
class Findings:
    """The figures of a report.

    regret: percent, by scheduler (rl.explain.choices). difference: the policy's regret minus that of least_tokens, and
    half its 95 % interval over the simulations. agreement: percent of the decisions, by scheduler.
    """

    beta: float
    decisions: int
    simulations: int
    clusters: list[str]
    regret: dict[str, float]
    difference: tuple[float, float]
    agreement: dict[str, float]
    by_group: list[Importance]
    by_quantity: list[Importance]
    by_feature: list[Importance]
    by_class: list[ClassFigures]
    by_load: list[ClassFigures]
    curves: list[Curve]
    by_prompt: ByPrompt
    by_beta: ByBeta
    roles: Roles

    def facts(self) -> list[tuple[str, str]]:
        """Return (label, text) of where the policy was observed, and of its regret."""
        difference, half = self.difference
        interval = "" if np.isnan(half) else f" ± {half:.0f}"
        return [
            ("Observed on", ", ".join(self.clusters)),
            ("Decisions", f"{self.decisions:,} in {plural(self.simulations, 'simulation')}, beta {self.beta:g}"),
            ("Regret", ", ".join(f"{name} {self.regret[name]:.0f} %" for name in (POLICY, LEAST_TOKENS, LOR))),
            ("Difference", f"{difference:+.0f}{interval} points of regret from least_tokens (95 %, over simulations)"),
        ]


def explain(weights: PolicyWeights, states: Sequence[States], seed: int) -> Findings:
    """Explain the policy that visited the states, given by cluster and all of one beta and queue depth."""
    judged = [Judged.of(weights, part) for part in states]
    decisions = Decisions.of(judged)
    inputs = quantities(states[0].queue_depth)
    rng = np.random.default_rng(seed)
    by_group = [
        importance(weights, judged, group, note, [quantity for quantity in inputs if quantity.group == group], rng)
        for group, note in GROUPS.items()
    ]
    by_quantity = [importance(weights, judged, quantity.name, quantity.group, [quantity], rng) for quantity in inputs]
    pairs = [
        (quantity, item.lost)
        for quantity, item in zip(inputs, by_quantity, strict=True)
        if quantity.of_replica and item.changed >= _LEAST_CHANGED
    ]
    swept = [quantity for quantity, _ in sorted(pairs, key=lambda pair: -pair[1])[:_CURVES]]
    return Findings(
        beta=states[0].beta,
        decisions=len(decisions),
        simulations=len(np.unique(decisions.episode)),
        clusters=[part.cluster for part in states],
        regret={name: float(values.mean()) for name, values in decisions.regret.items()},
        difference=_difference(decisions),
        agreement={name: 100 * float(values.mean()) for name, values in decisions.agreement.items()},
        by_group=sorted(by_group, key=lambda item: -item.lost),
        by_quantity=sorted(by_quantity, key=lambda item: -item.lost),
        by_feature=feature_importances(weights, judged, states[0].queue_depth, rng),
        by_class=[_class_figures(decisions, judged, *item) for item in _prompt_classes(decisions.prompts)],
        by_load=[_class_figures(decisions, judged, *item) for item in _load_classes(decisions.load)],
        curves=[curve(weights, states, quantity, rng) for quantity in swept],
        by_prompt=by_prompt(weights, judged, rng),
        by_beta=by_beta(weights, judged),
        roles=_roles(judged, decisions.prompts),
    )


def _difference(decisions: Decisions) -> tuple[float, float]:
    differences = decisions.regret[POLICY] - decisions.regret[LEAST_TOKENS]
    means = np.array([differences[decisions.episode == number].mean() for number in np.unique(decisions.episode)])
    half = 1.96 * float(means.std(ddof=1)) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    return float(differences.mean()), float(half)


def _prompt_classes(prompts: Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the quarters of the prompts by length, and the prompts over LONG_PROMPT."""
    cuts = [0.0, *np.quantile(prompts, [0.25, 0.5, 0.75]), np.inf]
    classes = []
    for low, high in itertools.pairwise(cuts):
        name = f"up to {high:,.0f} tokens" if low == 0 else f"{low:,.0f} to {high:,.0f}"
        classes.append((f"over {low:,.0f}" if high == np.inf else name, (prompts > low) & (prompts <= high)))
    if cuts[3] != LONG_PROMPT:
        prefix = "of these " if cuts[3] < LONG_PROMPT else ""
        classes.append((f"{prefix}over {LONG_PROMPT:,}", prompts > LONG_PROMPT))
    return [(name, rows) for name, rows in classes if rows.any()]


def _load_classes(load: Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    low, high = np.quantile(load, [1 / 3, 2 / 3])
    classes = [
        (f"up to {low:.1f} requests a replica", load <= low),
        (f"{low:.1f} to {high:.1f}", (load > low) & (load <= high)),
        (f"over {high:.1f}", load > high),
    ]
    return [(name, rows) for name, rows in classes if rows.any()]


def _class_figures(decisions: Decisions, judged: Sequence[Judged], name: str, rows: NDArray[np.bool_]) -> ClassFigures:
    parts = np.split(rows, np.cumsum([len(part.states) for part in judged])[:-1])
    return ClassFigures(
        name=name,
        decisions=int(rows.sum()),
        regret={scheduler: float(values[rows].mean()) for scheduler, values in decisions.regret.items()},
        agreement={scheduler: 100 * float(values[rows].mean()) for scheduler, values in decisions.agreement.items()},
        to_longest={scheduler: 100 * float(values[rows].mean()) for scheduler, values in decisions.to_longest.items()},
        busiest={scheduler: _busiest(judged, parts, scheduler) for scheduler in (POLICY, LEAST_TOKENS)},
    )


def _busiest(judged: Sequence[Judged], rows: Sequence[NDArray[np.bool_]], scheduler: str) -> float:
    """Return ClassFigures.busiest of a scheduler; nan if every simulation has too few decisions."""
    ratios = []
    for part, chosen_rows in zip(judged, rows, strict=True):
        placed, replicas = part.placed[scheduler], part.states.available.shape[1]
        for number in np.unique(part.states.episode):
            counts = np.bincount(placed[chosen_rows & (part.states.episode == number)], minlength=replicas)
            if counts.sum() >= _LEAST_DECISIONS:
                ratios.append(counts.max() * replicas / counts.sum())
    return float(np.mean(ratios)) if ratios else float("nan")


def _roles(judged: Sequence[Judged], prompts: Floats) -> Roles:
    """Return the roles in the largest cluster of up to 8 equal replicas, or in the first cluster if there is none."""
    equal = [part for part in judged if np.ptp(part.states.speed) == 0 and part.states.available.shape[1] <= 8]
    part = max(equal or judged[:1], key=lambda candidate: candidate.states.available.shape[1])
    states, replicas = part.states, part.states.available.shape[1]
    class_of = np.searchsorted(np.quantile(prompts, [0.25, 0.5, 0.75]), states.prompts)
    numbers = np.unique(states.episode)
    shares = {}
    for name, placed in part.placed.items():
        counts = np.zeros((4, replicas))
        for number in numbers:
            rows = states.episode == number
            received = np.bincount(placed[rows], minlength=replicas)
            mean = np.bincount(placed[rows], states.prompts[rows], replicas) / np.maximum(received, 1)
            rank = np.argsort(np.argsort(mean, kind="stable"))
            np.add.at(counts, (class_of[rows], rank[placed[rows]]), 1)
        shares[name] = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return Roles(states.cluster, [name for name, _ in _prompt_classes(prompts)][:4], shares)


IMPORTANCE_HEADINGS = ("Permuted input", "Advantage lost", "Decisions changed")
CLASS_HEADINGS = (
    "Decisions", "Number", "As least_tokens", "As lor", "Regret, policy", "Regret, least_tokens", "Regret, lor",
)  # fmt: skip


def importance_rows(items: Sequence[Importance]) -> list[list[str]]:
    """Format rows for IMPORTANCE_HEADINGS."""
    return [[item.name, f"{item.lost:.1f} %", f"{item.changed:.1f} %"] for item in items]


def class_rows(classes: Sequence[ClassFigures]) -> list[list[str]]:
    """Format rows for CLASS_HEADINGS."""
    return [
        [
            figures.name,
            f"{figures.decisions:,}",
            *(f"{figures.agreement[name]:.0f} %" for name in (LEAST_TOKENS, LOR)),
            *(f"{figures.regret[name]:.0f} %" for name in (POLICY, LEAST_TOKENS, LOR)),
        ]
        for figures in classes
    ]
