"""What a policy and other schedulers choose in the same states, and what it wastes.

Waste is how much a choice costs above the best one in hindsight, in percent of what a uniform choice costs above it, on
average, in the same cluster: 0 is what nobody can know, 100 is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.explain.scores import choices, least_tokens_scores, lor_scores, masked, policy_scores
from rl.explain.states import States
from rl.router.policy import PolicyWeights
from vidur.scheduler.observation import Floats

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
        return cls(states, {name: choices(its) for name, its in scores.items()})

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
            prompts=joined([one.states.prompts for one in judged]),
            load=joined([_load(one.states) for one in judged]),
            episode=np.concatenate([one.states.episode for one in judged]),
            waste={name: joined([one.waste(one.chosen[name]) for one in judged]) for name in SCHEDULERS},
            agreement={
                name: joined([overlap(one.chosen[POLICY], one.chosen[name]) for one in judged]) for name in SCHEDULERS
            },
            to_longest={name: joined([one.to_longest(one.chosen[name]) for one in judged]) for name in SCHEDULERS},
        )

    def __len__(self) -> int:
        return len(self.prompts)


def _load(states: States) -> Floats:
    """[N]: outstanding requests of the cluster, for each replica as fast as its fastest."""
    load: Floats = (states.outstanding * states.available).sum(1) / (states.speed * states.available).sum(1)
    return load
