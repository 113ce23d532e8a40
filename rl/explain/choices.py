"""Compute the choices of policies and schedulers in many states at once, and their regret.

Regret is the cost of a choice above the best one in hindsight, in percent of the mean of that for random choices in the
same cluster: 0 is perfect hindsight, 100 is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.explain.states import LEAST_TOKENS_PRIOR, States
from rl.router.compiled import encode_callback, score_callback
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
encode_by_handle, score_by_handle = encode_callback.call, score_callback.call

SCHEDULERS = (POLICY, LEAST_TOKENS, LOR, RANDOM)


@dataclass(frozen=True)
class Judged:
    """States of one cluster, and each scheduler's choices in them as probabilities [N, R]."""

    states: States
    chosen: Mapping[str, Floats]

    @property
    def placed(self) -> dict[str, NDArray[np.int64]]:
        """Where each scheduler placed the requests [N] in a simulation of its own."""
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

    def regret(self, chosen: Floats) -> Floats:
        """Return the regret [N], in percent, of choices [N, R]."""
        chance = (self.chosen[RANDOM] * self.states.costs).sum(1).mean()
        regret: Floats = 100 * (chosen * self.states.costs).sum(1) / max(chance, 1e-12)
        return regret

    def to_longest(self, chosen: Floats) -> Floats:
        """Return the probability [N] of the replica whose outstanding requests have the longest prompts."""
        mean = self.states.prompt_tokens / np.maximum(self.states.outstanding, 1)
        return part_to(chosen, choices(masked(mean, self.states.available)))


def overlap(chosen: Floats, other: Floats) -> Floats:
    """Return the probability [N] that two schedulers agree, if they break ties by the same draw."""
    same: Floats = np.minimum(chosen, other).sum(1)
    return same


def part_to(chosen: Floats, kind: Floats) -> Floats:
    """Return the probability [N] of the replicas where `kind` [N, R] is above 0."""
    part: Floats = (chosen * (kind > 0)).sum(1)
    return part


@dataclass(frozen=True)
class Decisions:
    """The decisions in all clusters, [N] each.

    regret, to_longest: by scheduler; agreement: of the policy with each scheduler.
    """

    prompts: Floats
    load: Floats
    episode: NDArray[np.int64]
    regret: Mapping[str, Floats]
    agreement: Mapping[str, Floats]
    to_longest: Mapping[str, Floats]

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Decisions:
        def by_scheduler(figure: Callable[[Judged, Floats], Floats]) -> dict[str, Floats]:
            return {name: np.concatenate([figure(part, part.chosen[name]) for part in judged]) for name in SCHEDULERS}

        return cls(
            prompts=np.concatenate([part.states.prompts for part in judged]),
            load=np.concatenate([_load(part.states) for part in judged]),
            episode=np.concatenate([part.states.episode for part in judged]),
            regret=by_scheduler(Judged.regret),
            agreement=by_scheduler(lambda part, chosen: overlap(part.chosen[POLICY], chosen)),
            to_longest=by_scheduler(Judged.to_longest),
        )

    def __len__(self) -> int:
        return len(self.prompts)


def _load(states: States) -> Floats:
    """Return the outstanding requests [N] of the cluster over the sum of the relative speeds."""
    load: Floats = (states.outstanding * states.available).sum(1) / (states.speed * states.available).sum(1)
    return load


def encode(states: States, beta: float | None = None) -> tuple[Floats, Floats]:
    """Return raw features [N, F, R] and contexts [N, G] as rl.router.encoder makes them. beta: replaces the states'."""
    features = np.empty((len(states), feature_count(states.queue_depth), states.available.shape[1]))
    contexts = np.empty((len(states), CONTEXT_SIZE))
    # The columns side by side: of the ledger, the gauges and the hardware.
    gauges = LEDGER_COLUMNS + QUEUE_COLUMNS * states.queue_depth
    ledger = states.replicas[:, :, :gauges].copy()
    ledger[:, :, OUTSTANDING] += ledger[:, :, AWAITING]
    ledger[:, :, PROMPT_TOKENS] += ledger[:, :, AWAITING_TOKENS]
    gauge_values, hardware, arrivals, completions = map(
        np.ascontiguousarray,
        (
            states.replicas[:, :, gauges : gauges + GAUGE_COLUMNS], states.replicas[:, :, gauges + GAUGE_COLUMNS :],
            states.requests[:, :ARRIVAL_COLUMNS], states.requests[:, ARRIVAL_COLUMNS:],
        ),
    )  # fmt: skip
    _encode(
        encode_callback.handle(encode_state), ledger, gauge_values, hardware, arrivals, completions,
        states.available.sum(1), states.beta if beta is None else beta, features, contexts,
    )  # fmt: skip
    return features, contexts


def scores_of(weights: PolicyWeights, features: Floats, contexts: Floats, available: NDArray[np.bool_]) -> Floats:
    """Return the policy's scores [N, R], -inf where a replica is unavailable."""
    scores = np.empty(available.shape)
    handle = score_callback.handle(score)
    _score(handle, np.ascontiguousarray(features), contexts, _integers(available), weights.memory(0.0, False), scores)
    return scores


def policy_scores(weights: PolicyWeights, states: States, beta: float | None = None) -> Floats:
    return scores_of(weights, *encode(states, beta), states.available)


def least_tokens_scores(states: States) -> Floats:
    """Return the scores [N, R] of least_tokens: minus the outstanding tokens over the relative speed."""
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
    """Return the probabilities [N, R] of choosing the highest score, which ties share evenly."""
    best = scores == scores.max(1, keepdims=True)
    shares: Floats = best / best.sum(1, keepdims=True)
    return shares


def _integers(available: NDArray[np.bool_]) -> NDArray[np.int64]:
    return available.astype(np.int64)


@allocating_kernel
def _encode(
    handle: int, ledger: Floats, gauges: Floats, hardware: Floats, arrivals: Floats, completions: Floats,
    available: NDArray[np.int64], beta: float, features: Floats, contexts: Floats,
) -> None:  # fmt: skip
    facts = np.empty((FACTS, ledger.shape[1]))
    for i in range(len(ledger)):
        derive_facts(hardware[i], facts)
        encode_by_handle(
            handle,
            (ledger[i], gauges[i], facts, arrivals[i], completions[i], beta, available[i], features[i], contexts[i]),
        )


@allocating_kernel
def _score(
    handle: int, features: Floats, contexts: Floats, available: NDArray[np.int64], memory: Floats, scores: Floats
) -> None:
    for state in range(len(features)):
        score_by_handle(handle, (features[state], contexts[state], available[state], memory, scores[state]))
