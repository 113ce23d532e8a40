"""What policies and schedulers choose in many states at once, and what their choices waste.

Waste is how much a choice costs above the best one in hindsight, in percent of what a uniform choice costs above it, on
average, in the same cluster: 0 is what nobody can know, 100 is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rl.router.compiled  # noqa: F401
from rl.explain.states import LEAST_TOKENS_PRIOR, States
from rl.router.features import CONTEXT as CONTEXT_SIZE
from rl.router.features import FACTS, derive_facts, encode_state, feature_count
from rl.router.policy import PolicyWeights
from rl.router.scores import score
from vidur.engine.compile import allocating_kernel
from vidur.observation import (
    ARRIVAL_COLUMNS,
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_OUTPUT,
    GAUGE_COLUMNS,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_COLUMNS,
    Floats,
)
from vidur.scheduler.routers.choice import PRIOR_WEIGHT

POLICY, LEAST_TOKENS, LOR, RANDOM = "policy", "least_tokens", "lor", "random"
SCHEDULERS = (POLICY, LEAST_TOKENS, LOR, RANDOM)


@dataclass(frozen=True)
class Judged:
    """States of one cluster and what each scheduler chooses there: probabilities [N, R]."""

    states: States
    chosen: Mapping[str, Floats]

    @property
    def placed(self) -> dict[str, NDArray[np.int64]]:
        """[N]: where requests went, each scheduler on its own path."""
        return {POLICY: self.states.actions, LEAST_TOKENS: self.states.least_tokens_actions}

    @classmethod
    def of(cls, weights: PolicyWeights, states: States) -> Judged:
        scores = {
            POLICY: policy_scores(weights, states),
            LEAST_TOKENS: least_tokens_scores(states),
            LOR: lor_scores(states),
            RANDOM: masked(np.zeros(states.available.shape), states.available),
        }
        return cls(states, {name: choices(values) for name, values in scores.items()})

    def waste(self, chosen: Floats) -> Floats:
        """[N]: percent, of choices [N, R]."""
        chance = (self.chosen[RANDOM] * self.states.costs).sum(1).mean()
        waste: Floats = 100 * (chosen * self.states.costs).sum(1) / max(chance, 1e-12)
        return waste

    def to_longest(self, chosen: Floats) -> Floats:
        """[N]: the part of the choice that goes to the replica whose outstanding requests have the longest prompts."""
        mean = self.states.prompt_tokens / np.maximum(self.states.outstanding, 1)
        return part_to(chosen, choices(masked(mean, self.states.available)))


def overlap(chosen: Floats, other: Floats) -> Floats:
    """[N]: how probable it is that two schedulers do the same, if both draw among equals with the same draw."""
    same: Floats = np.minimum(chosen, other).sum(1)
    return same


def part_to(chosen: Floats, kind: Floats) -> Floats:
    """[N]: the part of the choice that goes to replicas of a kind; of a kind [N, R] are those that are not 0."""
    part: Floats = (chosen * (kind > 0)).sum(1)
    return part


@dataclass(frozen=True)
class Decisions:
    """All clusters' decisions in a row, [N] each.

    waste, to_longest: by scheduler; agreement: of the policy with each.
    """

    prompts: Floats
    load: Floats
    episode: NDArray[np.int64]
    waste: Mapping[str, Floats]
    agreement: Mapping[str, Floats]
    to_longest: Mapping[str, Floats]

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Decisions:
        def joined(values: Sequence[Floats]) -> Floats:
            return np.concatenate(values)

        return cls(
            prompts=joined([part.states.prompts for part in judged]),
            load=joined([_load(part.states) for part in judged]),
            episode=np.concatenate([part.states.episode for part in judged]),
            waste={name: joined([part.waste(part.chosen[name]) for part in judged]) for name in SCHEDULERS},
            agreement={
                name: joined([overlap(part.chosen[POLICY], part.chosen[name]) for part in judged])
                for name in SCHEDULERS
            },
            to_longest={name: joined([part.to_longest(part.chosen[name]) for part in judged]) for name in SCHEDULERS},
        )

    def __len__(self) -> int:
        return len(self.prompts)


def _load(states: States) -> Floats:
    """[N]: outstanding requests of the cluster, for each replica as fast as its fastest."""
    load: Floats = (states.outstanding * states.available).sum(1) / (states.speed * states.available).sum(1)
    return load


def encode(states: States, beta: float | None = None) -> tuple[Floats, Floats]:
    """(features [N, F, R], contexts [N, G]), raw, of each state, as rl.router.encoder makes them. beta: in place
    of its own."""
    features = np.empty((len(states), feature_count(states.queue_depth), states.available.shape[1]))
    contexts = np.empty((len(states), CONTEXT_SIZE))
    ledger_columns = LEDGER_COLUMNS + QUEUE_COLUMNS * states.queue_depth
    weight = states.beta if beta is None else beta
    _encode(states.replicas, states.requests, _integers(states.available), ledger_columns, weight, features, contexts)
    return features, contexts


def scores_of(weights: PolicyWeights, features: Floats, contexts: Floats, available: NDArray[np.bool_]) -> Floats:
    """[N, R]: what rl.router.policy.NumpyPolicy gives for each state; -inf where a replica is not available."""
    scores = np.empty(available.shape)
    _score(np.ascontiguousarray(features), contexts, _integers(available), weights.memory(0.0, False), scores)
    return scores


def policy_scores(weights: PolicyWeights, states: States, beta: float | None = None) -> Floats:
    return scores_of(weights, *encode(states, beta), states.available)


def least_tokens_scores(states: States) -> Floats:
    """[N, R]: minus the tokens that each replica owes, divided by its speed (the rule of least_tokens)."""
    completions = states.requests[:, ARRIVAL_COLUMNS:]
    total = PRIOR_WEIGHT * LEAST_TOKENS_PRIOR + completions[:, COMPLETED_OUTPUT]
    output = (total / (PRIOR_WEIGHT + completions[:, COMPLETED_COUNT]))[:, None]
    tokens = states.prompt_tokens + states.outstanding * output + states.prompts[:, None] + output
    return masked(-tokens / states.speed, states.available)


def lor_scores(states: States) -> Floats:
    return masked(-states.outstanding, states.available)


def masked(scores: Floats, available: NDArray[np.bool_]) -> Floats:
    return np.where(available, scores, -np.inf)


def choices(scores: Floats) -> Floats:
    """[N, R]: probabilities, all on the highest score, shared out evenly among equals."""
    best = scores == scores.max(1, keepdims=True)
    shares: Floats = best / best.sum(1, keepdims=True)
    return shares


def _integers(available: NDArray[np.bool_]) -> NDArray[np.int64]:
    return available.astype(np.int64)


@allocating_kernel
def _encode(
    replicas: Floats,
    requests: Floats,
    available: NDArray[np.int64],
    ledger_columns: int,
    beta: float,
    features: Floats,
    contexts: Floats,
) -> None:
    count = replicas.shape[1]
    begin = ledger_columns + GAUGE_COLUMNS
    ledger = np.empty((count, ledger_columns))
    gauges = np.empty((count, GAUGE_COLUMNS))
    hardware = np.empty((count, replicas.shape[2] - begin))
    facts = np.empty((FACTS, count))
    arrival = np.empty(ARRIVAL_COLUMNS)
    completions = np.empty(requests.shape[1] - ARRIVAL_COLUMNS)
    for state in range(len(replicas)):
        ledger[:] = replicas[state, :, :ledger_columns]
        ledger[:, OUTSTANDING] += ledger[:, AWAITING]
        ledger[:, PROMPT_TOKENS] += ledger[:, AWAITING_TOKENS]
        gauges[:] = replicas[state, :, ledger_columns:begin]
        hardware[:] = replicas[state, :, begin:]
        arrival[:] = requests[state, :ARRIVAL_COLUMNS]
        completions[:] = requests[state, ARRIVAL_COLUMNS:]
        derive_facts(hardware, facts)
        here = available[state].sum()
        encode_state(ledger, gauges, facts, arrival, completions, beta, here, features[state], contexts[state])


@allocating_kernel
def _score(features: Floats, contexts: Floats, available: NDArray[np.int64], memory: Floats, scores: Floats) -> None:
    for state in range(len(features)):
        score(features[state], contexts[state], available[state], memory, scores[state])
