"""A decision log as arrays to learn from: what was seen, what was chosen with which probability, what it cost."""

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
# Lines of no use, and what makes the next ones useful.
NOT_FINISHED, _FALLBACK, _NO_EXPLORATION, _NO_TTFT = _REASONS = (
    "not finished", "fallback", "no exploration", "without TTFT"
)  # fmt: skip
_REMEDIES = {
    _NO_EXPLORATION: "choices without chance say nothing of other choices: let the router run with --explore epsilon, "
    "or --explore sample",
    _NO_TTFT: "nobody saw their first token: the cost has TTFT in it, so let clients stream",
}


@dataclass(frozen=True)
class Experience:
    """N decisions in the order in which they were made, padded to R replicas, which `masks` tells.

    features float32[N, R, F], contexts float32[N, G], masks bool[N, R]; actions int64[N]; probabilities float64[N, R];
    ttft, e2e float64[N]: seconds; outputs int64[N]: tokens. interference float64[N, R]: seconds that the choice of a
    replica takes from others; prices float64[N, COST_PARTS], of rl.reward.cost. left_out: lines of no use, by reason.
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
        """float64[N]: the probability of what was chosen."""
        return self.chosen(self.probabilities)

    @property
    def costs(self) -> Floats:
        """float64[N]: of what was chosen."""
        return self.cost(self.ttft, self.e2e, self.chosen(self.interference), self.prices)

    def chosen(self, values: Floats) -> Floats:
        """float64[N]: of values [N, R], those of what was chosen."""
        found: Floats = values[np.arange(len(self)), self.actions]
        return found

    @staticmethod
    def cost(ttft: Floats, e2e: Floats, interference: Floats, prices: Floats) -> Floats:
        """What the simulator's reward, the marginal cost of a placement (rl.reward.cost), comes to where no output
        length is known ahead: the request's own E2E and TTFT as they were, and by how much later others end
        (rl.vllm.learn.congestion). prices: [..., COST_PARTS]."""
        found: Floats = prices[..., COST_E2E] * (e2e + interference) + prices[..., COST_TTFT] * ttft
        found += prices[..., COST_TTFT_SQUARED] * ttft**2
        return found


def read_experience(paths: Sequence[str | Path], queue_depth: int, beta: float) -> Experience:
    """The decisions of log files that one can learn from: those that chance had a say in, of requests that finished and
    whose TTFT is known. Whether a client streams does not depend on the choice, so that what is found of streams holds
    for streams; whether a request finishes may, and what is found does not tell.

    beta: of decisions by a scheduler that has none. Raises InputError for too few of them, and for the log of a router
    that saw fewer waiting requests than queue_depth.
    """
    left_out = dict.fromkeys(_REASONS, 0)
    every = list(read_log(paths))
    kept: list[LoggedDecision] = []
    for logged in every:
        if logged.status != FINISHED:
            left_out[NOT_FINISHED] += 1
        elif logged.fallback is not None:
            left_out[_FALLBACK] += 1
        elif np.count_nonzero(logged.probabilities) < min(2, int(logged.observation.available.sum())):
            left_out[_NO_EXPLORATION] += 1
        elif logged.served.ttft is None:
            left_out[_NO_TTFT] += 1
        else:
            kept.append(logged)
    if len(kept) < _FEWEST:
        most = max(left_out, key=left_out.__getitem__)
        remedy = _REMEDIES.get(most, "more are needed") if left_out[most] else "more are needed"
        raise InputError(
            f"{', '.join(map(str, paths))}: {len(kept)} decisions to learn from are too few, {_FEWEST} at least "
            f"({_counts(left_out)}): {remedy}"
        )
    kept.sort(key=lambda logged: logged.decided_at)
    return _arrays(kept, Congestion.of(every), queue_depth, beta, left_out)


def _counts(left_out: dict[str, int]) -> str:
    return ", ".join(f"{count} lines {reason}" for reason, count in left_out.items() if count) or "no other lines"


def _arrays(
    kept: Sequence[LoggedDecision], congestion: Congestion, queue_depth: int, beta: float, left_out: dict[str, int]
) -> Experience:
    count, most = len(kept), max(logged.observation.num_replicas for logged in kept)
    encoders = {size: StateEncoder(size, queue_depth) for size in {item.observation.num_replicas for item in kept}}
    some = next(iter(encoders.values()))
    features = np.zeros((count, most, some.replica_dimension), np.float32)
    contexts = np.zeros((count, some.context_dimension), np.float32)
    masks, probabilities = np.zeros((count, most), np.bool_), np.zeros((count, most))
    interference, prices = np.zeros((count, most)), np.zeros((count, COST_PARTS))
    for row, logged in enumerate(kept):
        seen, size = logged.observation, logged.observation.num_replicas
        depth = (seen.ledger.shape[1] - LEDGER_COLUMNS) // QUEUE_COLUMNS
        if depth < queue_depth:
            raise InputError(
                f"the log has {depth} waiting requests of each replica, the checkpoint sees {queue_depth}: let a "
                f"router log that decides with this checkpoint, or has it for --shadow"
            )
        own = beta if np.isnan(logged.beta) else logged.beta
        x, context = encoders[size].encode(seen, own)
        features[row, :size], contexts[row] = x, context
        masks[row, :size], probabilities[row, :size] = seen.available, logged.probabilities
        interference[row, :size] = congestion.taken(logged)
        prices[row] = cost_weights(own, float(seen.hardware[:, DECODE_SECONDS].min()))
    served = [logged.served for logged in kept]
    return Experience(
        features=features,
        contexts=contexts,
        masks=masks,
        actions=np.array([logged.replica for logged in kept], np.int64),
        probabilities=probabilities,
        ttft=np.array([item.ttft for item in served], np.float64),
        e2e=np.array([item.e2e for item in served]),
        outputs=np.array([item.output_tokens for item in served], np.int64),
        interference=interference,
        prices=prices,
        left_out=left_out,
    )
