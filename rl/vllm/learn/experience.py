"""Read a decision log into arrays to learn from: observations, choices, propensities and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rl.reward.cost import cost_weights
from rl.router.encoder import StateEncoder
from rl.vllm.decide.decision_log import FINISHED, LoggedDecision, read_log
from rl.vllm.learn.congestion import Congestion
from vidur.engine.foresight import COST_E2E, COST_PARTS, COST_TTFT, COST_TTFT_SQUARED
from vidur.errors import InputError
from vidur.observation import (
    DECODE_SECONDS,
    LEDGER_COLUMNS,
    QUEUE_COLUMNS,
    Floats,
)

_FEWEST = 600
# Why lines cannot be used, and what to do about it.
NOT_FINISHED, _FALLBACK, _NO_EXPLORATION, _NO_TTFT = _REASONS = (
    "not finished", "fallback", "no exploration", "without TTFT"
)  # fmt: skip
_REMEDIES = {
    _NO_EXPLORATION: "without exploration, other choices are unknown: run the router with --explore epsilon, or "
    "--explore sample",
    _NO_TTFT: "the cost needs their TTFT: let clients stream",
}


@dataclass(frozen=True)
class Experience:
    """N decisions in order of time, padded to R replicas.

    features float32[N, R, F], contexts float32[N, G], masks bool[N, R]; actions int64[N]; probabilities float64[N, R];
    ttft, e2e float64[N]: seconds; outputs int64[N]: tokens. interference float64[N, R]: seconds by which each choice
    delays other requests; prices float64[N, COST_PARTS] of rl.reward.cost. left_out: unused lines, by reason.
    """

    features: NDArray[np.float32]
    contexts: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    probabilities: Floats
    ttft: Floats
    e2e: Floats
    outputs: NDArray[np.int64]
    interference: Floats
    prices: Floats
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def propensities(self) -> Floats:
        """The probabilities of the choices, float64[N]."""
        return self.chosen(self.probabilities)

    @property
    def costs(self) -> Floats:
        """The costs of the choices, float64[N]."""
        return self.cost(self.ttft, self.e2e, self.chosen(self.interference), self.prices)

    def chosen(self, values: Floats) -> Floats:
        """Return the values [N] of the choices from values [N, R] of all replicas."""
        chosen: Floats = values[np.arange(len(self)), self.actions]
        return chosen

    @staticmethod
    def cost(ttft: Floats, e2e: Floats, interference: Floats, prices: Floats) -> Floats:
        """Return the marginal costs of placements (rl.reward.cost) as they are known afterwards.

        They are made of the request's E2E and TTFT and the delay of others (rl.vllm.learn.congestion). prices:
        [..., COST_PARTS].
        """
        cost: Floats = prices[..., COST_E2E] * (e2e + interference) + prices[..., COST_TTFT] * ttft
        cost += prices[..., COST_TTFT_SQUARED] * ttft**2
        return cost


def read_experience(paths: Sequence[str | Path], queue_depth: int, beta: float) -> Experience:
    """Read the decisions chosen with exploration (propensity < 1) of finished requests whose TTFT is known.

    Selecting streams introduces no bias, as streaming does not depend on the choice. Selecting finished requests may.
    beta: of decisions by a scheduler without one. Raises InputError for too few decisions, or if the router observed
    fewer waiting requests than queue_depth.
    """
    left_out = dict.fromkeys(_REASONS, 0)
    log = list(read_log(paths))
    usable: list[LoggedDecision] = []
    for logged in log:
        if logged.status != FINISHED:
            left_out[NOT_FINISHED] += 1
        elif logged.fallback is not None:
            left_out[_FALLBACK] += 1
        elif np.count_nonzero(logged.probabilities) < min(2, int(logged.observation.available.sum())):
            left_out[_NO_EXPLORATION] += 1
        elif logged.served.ttft is None:
            left_out[_NO_TTFT] += 1
        else:
            usable.append(logged)
    if len(usable) < _FEWEST:
        most = max(left_out, key=left_out.__getitem__)
        remedy = _REMEDIES.get(most, "log more") if left_out[most] else "log more"
        raise InputError(
            f"{', '.join(map(str, paths))}: {len(usable)} usable decisions are too few, {_FEWEST} are needed "
            f"({_counts(left_out)}): {remedy}"
        )
    usable.sort(key=lambda logged: logged.decided_at)
    return _arrays(usable, Congestion.of(log), queue_depth, beta, left_out)


def _counts(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count} lines {reason}" for reason, count in left_out.items() if count) or "no other lines"


def _arrays(
    log: Sequence[LoggedDecision], congestion: Congestion, queue_depth: int, beta: float, left_out: dict[str, int]
) -> Experience:
    count, most = len(log), max(logged.observation.num_replicas for logged in log)
    encoders = {size: StateEncoder(size, queue_depth) for size in {item.observation.num_replicas for item in log}}
    encoder = next(iter(encoders.values()))
    features = np.zeros((count, most, encoder.replica_dimension), np.float32)
    contexts = np.zeros((count, encoder.context_dimension), np.float32)
    masks, probabilities = np.zeros((count, most), np.bool_), np.zeros((count, most))
    interference, prices = np.zeros((count, most)), np.zeros((count, COST_PARTS))
    for row, logged in enumerate(log):
        seen, size = logged.observation, logged.observation.num_replicas
        depth = (seen.ledger.shape[1] - LEDGER_COLUMNS) // QUEUE_COLUMNS
        if depth < queue_depth:
            raise InputError(
                f"the log has {depth} waiting requests per replica, but the checkpoint observes {queue_depth}: log "
                f"with a router that has this checkpoint for --scheduler or --shadow"
            )
        own = beta if np.isnan(logged.beta) else logged.beta
        x, context = encoders[size].encode(seen, own)
        features[row, :size], contexts[row] = x, context
        masks[row, :size], probabilities[row, :size] = seen.available, logged.probabilities
        interference[row, :size] = congestion.taken(logged)
        prices[row] = cost_weights(own, float(seen.hardware[:, DECODE_SECONDS].min()))
    served = [logged.served for logged in log]
    return Experience(
        features=features,
        contexts=contexts,
        masks=masks,
        actions=np.array([logged.replica for logged in log], np.int64),
        probabilities=probabilities,
        ttft=np.array([item.ttft for item in served], np.float64),
        e2e=np.array([item.e2e for item in served]),
        outputs=np.array([item.output_tokens for item in served], np.int64),
        interference=interference,
        prices=prices,
        left_out=left_out,
    )
