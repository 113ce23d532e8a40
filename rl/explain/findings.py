"""Everything that is reported of a policy, from states on its path."""

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
# Percent of the decisions that something must change to have a curve.
_HEEDED = 1.0
# Fewer decisions of a class than this say nothing of how one simulation spreads it.
_LEAST_SPREAD = 10


@dataclass(frozen=True)
class ClassFigures:
    """The decisions of one kind, by scheduler. waste: percent, mean; agreement: percent of the decisions in which the
    policy does the same; to_longest: percent that go to the replica with the longest requests; busiest: requests of the
    busiest replica of a simulation over an equal share, mean, where each scheduler routes by itself."""

    name: str
    decisions: int
    waste: Mapping[str, float]
    agreement: Mapping[str, float]
    to_longest: Mapping[str, float]
    busiest: Mapping[str, float]


@dataclass(frozen=True)
class Roles:
    """How prompt classes are spread in one cluster: percent of class k at replica r, [K, R], by scheduler.

    Each scheduler routes by itself. Replicas are in the order of the mean prompt that they got in a simulation.
    """

    cluster: str
    classes: list[str]
    shares: Mapping[str, Floats]


@dataclass(frozen=True)
class Findings:
    """waste: percent, by scheduler (rl.explain.choices). difference: of the policy's and least_tokens', and half its
    95 % interval over the simulations. agreement: percent of the decisions, by scheduler."""

    beta: float
    decisions: int
    simulations: int
    clusters: list[str]
    waste: dict[str, float]
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
        """Labels and texts: where the policy was watched, and what its choices and others' waste there."""
        apart, half = self.difference
        interval = "" if np.isnan(half) else f" ± {half:.0f}"
        return [
            ("Watched on", ", ".join(self.clusters)),
            ("Decisions", f"{self.decisions:,} in {plural(self.simulations, 'simulation')}, beta {self.beta:g}"),
            ("Waste", ", ".join(f"{name} {self.waste[name]:.0f} %" for name in (POLICY, LEAST_TOKENS, LOR))),
            ("Difference", f"{apart:+.0f}{interval} points of waste from least_tokens (95 %, over the simulations)"),
        ]


def explain(weights: PolicyWeights, states: Sequence[States], seed: int) -> Findings:
    """What the states say of the policy that visited them. states: by cluster, all of one beta and queue depth."""
    judged = [Judged.of(weights, part) for part in states]
    decisions = Decisions.of(judged)
    things = quantities(states[0].queue_depth)
    rng = np.random.default_rng(seed)
    by_group = [
        importance(weights, judged, group, note, [quantity for quantity in things if quantity.group == group], rng)
        for group, note in GROUPS.items()
    ]
    by_quantity = [importance(weights, judged, quantity.name, quantity.group, [quantity], rng) for quantity in things]
    importances = {item.name: item for item in by_quantity}
    heeded = [quantity for quantity in things if quantity.of_replica and importances[quantity.name].changed >= _HEEDED]
    swept = sorted(heeded, key=lambda quantity: -importances[quantity.name].lost)[:_CURVES]
    return Findings(
        beta=states[0].beta,
        decisions=len(decisions),
        simulations=len(np.unique(decisions.episode)),
        clusters=[part.cluster for part in states],
        waste={name: float(values.mean()) for name, values in decisions.waste.items()},
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
    apart = decisions.waste[POLICY] - decisions.waste[LEAST_TOKENS]
    means = np.array([apart[decisions.episode == number].mean() for number in np.unique(decisions.episode)])
    half = 1.96 * float(means.std(ddof=1)) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    return float(apart.mean()), float(half)


def _prompt_classes(prompts: Floats) -> list[tuple[str, NDArray[np.bool_]]]:
    """Quarters by length, and the long ones."""
    cuts = [0.0, *np.quantile(prompts, [0.25, 0.5, 0.75]), np.inf]
    made = []
    for low, high in itertools.pairwise(cuts):
        name = f"up to {high:,.0f} tokens" if low == 0 else f"{low:,.0f} to {high:,.0f}"
        made.append((f"over {low:,.0f}" if high == np.inf else name, (prompts > low) & (prompts <= high)))
    if cuts[3] != LONG_PROMPT:
        made.append(
            (
                f"of these over {LONG_PROMPT:,}" if cuts[3] < LONG_PROMPT else f"over {LONG_PROMPT:,}",
                prompts > LONG_PROMPT,
            )
        )
    return [(name, rows) for name, rows in made if rows.any()]


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
        waste={scheduler: float(values[rows].mean()) for scheduler, values in decisions.waste.items()},
        agreement={scheduler: 100 * float(values[rows].mean()) for scheduler, values in decisions.agreement.items()},
        to_longest={scheduler: 100 * float(values[rows].mean()) for scheduler, values in decisions.to_longest.items()},
        busiest={scheduler: _busiest(judged, parts, scheduler) for scheduler in (POLICY, LEAST_TOKENS)},
    )


def _busiest(judged: Sequence[Judged], rows: Sequence[NDArray[np.bool_]], scheduler: str) -> float:
    """The busiest replica's requests over an equal share, mean over the simulations; nan where there are too few."""
    ratios = []
    for part, chosen_rows in zip(judged, rows, strict=True):
        placed, replicas = part.placed[scheduler], part.states.available.shape[1]
        for number in np.unique(part.states.episode):
            counts = np.bincount(placed[chosen_rows & (part.states.episode == number)], minlength=replicas)
            if counts.sum() >= _LEAST_SPREAD:
                ratios.append(counts.max() * replicas / counts.sum())
    return float(np.mean(ratios)) if ratios else float("nan")


def _roles(judged: Sequence[Judged], prompts: Floats) -> Roles:
    """Of the cluster with most replicas up to 8 among those whose replicas are equal; of the first if none is."""
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


IMPORTANCE_HEADINGS = ("Without what it sees of ...", "Advantage lost", "Decisions changed")
CLASS_HEADINGS = (
    "Decisions",
    "Number",
    "As least_tokens",
    "As lor",
    "Waste, policy",
    "Waste, least_tokens",
    "Waste, lor",
)


def importance_rows(items: Sequence[Importance]) -> list[list[str]]:
    """Under IMPORTANCE_HEADINGS."""
    return [[item.name, f"{item.lost:.1f} %", f"{item.changed:.1f} %"] for item in items]


def class_rows(classes: Sequence[ClassFigures]) -> list[list[str]]:
    """Under CLASS_HEADINGS."""
    return [
        [
            figures.name,
            f"{figures.decisions:,}",
            *(f"{figures.agreement[name]:.0f} %" for name in (LEAST_TOKENS, LOR)),
            *(f"{figures.waste[name]:.0f} %" for name in (POLICY, LEAST_TOKENS, LOR)),
        ]
        for figures in classes
    ]
