"""What policies and schedulers choose in many states at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import rl.router.compiled  # noqa: F401
from rl.explain.states import LEAST_TOKENS_PRIOR, States
from rl.router.features import CONTEXT as CONTEXT_SIZE
from rl.router.features import FACTS, derive_facts, encode_state, feature_count
from rl.router.policy import PolicyWeights
from rl.router.scores import score
from vidur.engine.compile import allocating_kernel
from vidur.scheduler.global_scheduler.choice import PRIOR_WEIGHT
from vidur.scheduler.observation import (
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
