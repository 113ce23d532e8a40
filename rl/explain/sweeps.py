"""Measure how a policy responds to changes of one input: permuted, at other values, or at another beta."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.explain.choices import (
    LEAST_TOKENS,
    POLICY,
    Judged,
    choices,
    encode,
    masked,
    overlap,
    part_to,
    policy_scores,
    scores_of,
)
from rl.explain.quantities import Quantity, permuted, sweep, with_value
from rl.explain.states import States, hardware_column
from rl.router.encoder import EncoderSpec
from rl.router.policy import PolicyWeights
from vidur.observation import ARRIVAL_PROMPT, AWAITING_TOKENS, PREFILL_SECONDS, Floats

BETAS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)
SHORT, LONG = "short prompts (first quarter)", "long prompts (last quarter)"
_REPEATS = 3
_POINTS = 15
_SWEPT = 2000


@dataclass(frozen=True)
class Importance:
    """The permutation importance of an input.

    lost: percent of the policy's advantage over chance; changed: percent of the decisions.
    """

    name: str
    note: str
    lost: float
    changed: float


@dataclass(frozen=True)
class Curve:
    """The policy's response to one replica's quantity at `values` [P], for SHORT and LONG arriving prompts.

    score [P]: the replica's score above the others' mean; chosen [P]: percent of states in which it is chosen.
    """

    quantity: Quantity
    values: Floats
    score: Mapping[str, Floats]
    chosen: Mapping[str, Floats]


@dataclass(frozen=True)
class ByPrompt:
    """The percentage of decisions, [P] each, that go to each kind of replica at other arriving prompts."""

    prompts: Floats
    shares: Mapping[str, Floats]


@dataclass(frozen=True)
class ByBeta:
    """Figures at each beta, [B] each.

    least_backlog, as_least_tokens: percent of decisions for the replica with the least backlog, and that agree with
    least_tokens; e2e, ttft: mean growth of the sums over all requests by a decision, in seconds.
    """

    betas: tuple[float, ...]
    least_backlog: Floats
    as_least_tokens: Floats
    e2e: Floats
    ttft: Floats


def importance(
    weights: PolicyWeights, judged: Sequence[Judged], name: str, note: str, inputs: Sequence[Quantity],
    rng: np.random.Generator,
) -> Importance:  # fmt: skip
    """Measure the importance of quantities that are permuted together."""
    scores = [[policy_scores(weights, permuted(part.states, inputs, rng)) for part in judged] for _ in range(_REPEATS)]
    return _importance(judged, name, note, scores)


def feature_importances(
    weights: PolicyWeights, judged: Sequence[Judged], queue_depth: int, rng: np.random.Generator
) -> list[Importance]:
    """Measure the importance of each feature of the encoder, the greatest first."""
    spec = EncoderSpec.of(queue_depth)
    encoded = [encode(part.states) for part in judged]
    importances = []
    for index, feature in enumerate((*spec.replica, *spec.context)):
        scores = []
        for part, (features, contexts) in zip(judged, encoded, strict=True):
            changed = _feature_permuted(features, contexts, index, rng)
            scores.append(scores_of(weights, *changed, part.states.available))
        importances.append(_importance(judged, feature.name, f"{feature.meaning} ({feature.unit})", [scores]))
    return sorted(importances, key=lambda item: -item.lost)


def _feature_permuted(
    features: Floats, contexts: Floats, index: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Permute feature `index` over the states (see `permuted`); the context's features follow the replicas'."""
    other = rng.permutation(len(features))
    if index < features.shape[1]:
        features = features.copy()
        features[:, index] = rng.permuted(features[other, index], axis=1)
    else:
        contexts = contexts.copy()
        contexts[:, index - features.shape[1]] = contexts[other, index - features.shape[1]]
    return features, contexts


def _importance(judged: Sequence[Judged], name: str, note: str, repeats: Sequence[Sequence[Floats]]) -> Importance:
    """Compare the policy with its choices at permuted scores. repeats: scores [N, R] of each cluster, repeatedly."""
    regret = float(np.concatenate([part.regret(part.chosen[POLICY]) for part in judged]).mean())
    extra, same = [], []
    for repeat in repeats:
        pairs = [(part, part.chosen[POLICY], choices(scores)) for part, scores in zip(judged, repeat, strict=True)]
        extra.append(np.concatenate([part.regret(choice) - part.regret(own) for part, own, choice in pairs]).mean())
        same.append(np.concatenate([overlap(own, choice) for _, own, choice in pairs]).mean())
    lost, kept = float(np.mean(extra)), float(np.mean(same))
    return Importance(name, note, 100 * lost / (100 - regret) if regret < 100 else lost, 100 * (1 - kept))


def curve(weights: PolicyWeights, states: Sequence[States], quantity: Quantity, rng: np.random.Generator) -> Curve:
    """Measure the response to a quantity of a random available replica in each state."""
    values = sweep(states, quantity, _POINTS)
    parts = [_sample(part, states, rng) for part in states]
    replicas = [choices(np.where(part.available, rng.random(part.available.shape), -1.0)).argmax(1) for part in parts]
    classes = _prompt_classes(parts)
    score = {name: np.zeros(len(values)) for name in classes}
    chosen = {name: np.zeros(len(values)) for name in classes}
    for index, value in enumerate(values):
        above, picked = [], []
        for part, replica in zip(parts, replicas, strict=True):
            scores = policy_scores(weights, with_value(part, quantity, replica, float(value)))
            rows = np.arange(len(part))
            others = part.available.copy()
            others[rows, replica] = False
            rest = np.where(others, scores, 0.0).sum(1) / others.sum(1)
            above.append(scores[rows, replica] - rest)
            picked.append(choices(scores)[rows, replica])
        for name, rows_of in classes.items():
            score[name][index] = np.concatenate(above)[rows_of].mean()
            chosen[name][index] = 100 * np.concatenate(picked)[rows_of].mean()
    return Curve(quantity, values, score, chosen)


def _sample(part: States, states: Sequence[States], rng: np.random.Generator) -> States:
    most = max(_SWEPT // len(states), 1)
    return part if len(part) <= most else part.rows(np.sort(rng.choice(len(part), most, replace=False)))


def _prompt_classes(parts: Sequence[States]) -> dict[str, NDArray[np.bool_]]:
    prompts = np.concatenate([part.prompts for part in parts])
    low, high = np.quantile(prompts, [0.25, 0.75])
    return {SHORT: prompts <= low, LONG: prompts >= high}


def backlog(states: States) -> Floats:
    """Return the seconds [N, R] to prefill the requests without a first token."""
    seconds: Floats = states.of(AWAITING_TOKENS) * states.of(hardware_column(PREFILL_SECONDS, states.queue_depth))
    return seconds


def by_prompt(weights: PolicyWeights, judged: Sequence[Judged], rng: np.random.Generator) -> ByPrompt:
    """Measure the choices in the same states with other arriving prompts."""
    parts = [_sample(part.states, [other.states for other in judged], rng) for part in judged]
    seen = np.concatenate([part.prompts for part in parts])
    prompts = np.unique(np.rint(np.geomspace(max(np.quantile(seen, 0.02), 1), seen.max(), _POINTS)))
    kinds = [_kinds(part) for part in parts]
    shares = {name: np.zeros(len(prompts)) for name in kinds[0]}
    for index, prompt in enumerate(prompts):
        chosen = []
        for part in parts:
            requests = part.requests.copy()
            requests[:, ARRIVAL_PROMPT] = prompt
            chosen.append(choices(policy_scores(weights, dataclasses.replace(part, requests=requests))))
        for name in shares:
            parts_to = [part_to(choice, kind[name]) for choice, kind in zip(chosen, kinds, strict=True)]
            shares[name][index] = 100 * np.concatenate(parts_to).mean()
    return ByPrompt(prompts, shares)


def _kinds(states: States) -> dict[str, Floats]:
    """Return the replicas of each kind, as choices [N, R]."""
    mean = states.prompt_tokens / np.maximum(states.outstanding, 1)
    return {
        "least backlog": choices(masked(-backlog(states), states.available)),
        "fewest outstanding requests": choices(masked(-states.outstanding, states.available)),
        "longest requests": choices(masked(mean, states.available)),
    }


def by_beta(weights: PolicyWeights, judged: Sequence[Judged]) -> ByBeta:
    """Measure the choices in the same states at each of BETAS."""
    least = [choices(masked(-backlog(part.states), part.states.available)) for part in judged]
    rows = []
    for beta in BETAS:
        chosen = [choices(policy_scores(weights, part.states, beta)) for part in judged]
        pairs = list(zip(chosen, judged, strict=True))
        figures = (
            [100 * part_to(choice, kind) for choice, kind in zip(chosen, least, strict=True)],
            [100 * overlap(choice, part.chosen[LEAST_TOKENS]) for choice, part in pairs],
            [(choice * part.states.e2e).sum(1) for choice, part in pairs],
            [(choice * part.states.ttft).sum(1) for choice, part in pairs],
        )
        rows.append([np.concatenate(values).mean() for values in figures])
    return ByBeta(BETAS, *np.array(rows).T)
