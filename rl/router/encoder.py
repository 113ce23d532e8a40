"""From what a router can know to the numbers that the policy takes. Sizes and names come from the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.router import features as kernel
from vidur.observation import (
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_COLUMNS,
    ClusterObservation,
    Floats,
)

DEFAULT_QUEUE_REQUESTS = 4


@dataclass(frozen=True)
class Feature:
    """One number that the policy sees. `normalisation`: `log` for log(1 + quantity), then the checkpoint's mean and
    standard deviation; `none` for interactions, which are products of quantities of order 1."""

    name: str
    unit: str
    meaning: str
    normalisation: str = "log"


# In the order of rl.router.features.
_AGGREGATES = (
    Feature("outstanding", "requests", "placed here and not seen to end"),
    Feature("awaiting", "requests", "of these, without a first token"),
    Feature("prompt_tokens", "tokens", "prompts of the outstanding"),
    Feature("awaiting_tokens", "tokens", "prompts of those without a first token"),
    Feature("streamed_tokens", "tokens", "what the outstanding have streamed"),
    Feature("token_gap", "own decode iterations", "time between tokens of a stream, lately"),
    Feature("slowness", "of the fastest replica", "1 / relative speed - 1"),
    Feature("load", "requests", "outstanding / relative speed"),
    Feature("backlog", "decode iterations", "time to read the prompts of those without a first token"),
    Feature("arrival", "decode iterations", "time to read the prompt of the arrival here"),
    Feature("context_tokens", "tokens", "prompts read and tokens streamed of the outstanding"),
    Feature("mean_prompt", "tokens", "mean prompt of the outstanding; of all, where there are none"),
    Feature("kv_expected", "tenths of the KV-cache", "outstanding and arrival with the expected outputs"),
    Feature("waiting", "requests", "gauge: waiting"),
    Feature("kv_usage", "tenths of the KV-cache", "gauge: KV-cache in use"),
)
_INTERACTIONS = tuple(
    Feature(name, unit, meaning, "none")
    for name, unit, meaning in (
        ("backlog_linear", "50 iterations", "backlog"),
        ("interference", "2,000 iterations", "streams here x time to read the arrival's prompt"),
        ("load_linear", "30 requests", "load"),
        ("slowness_linear", "of the fastest replica", "slowness"),
        ("mean", "1", "log of the mean prompt here over the mean of all"),
        ("size_backlog", "1", "size x backlog_linear, where size = log of the arrival's prompt over the mean of all"),
        ("size_interference", "1", "size x interference"),
        ("size_load", "1", "size x load_linear"),
        ("size_slowness", "1", "size x slowness_linear"),
        ("size_mean", "1", "size x mean"),
        ("load_load", "1", "load_linear squared; from 1.5 on, the tangent there"),
        ("load_mean", "1", "load_linear x mean"),
        ("load_larger", "1", "load_linear x max(size - mean, 0)"),
        ("backlog_backlog", "1", "backlog_linear squared"),
        ("kv_excess", "of the KV-cache", "max(kv_expected - 0.7, 0)"),
        ("oldest", "50 iterations", "age of number 0 without a first token"),
    )
)
_CONTEXT = (
    Feature("prompt", "tokens", "prompt of the arrival"),
    Feature("age", "decode iterations", "time since it arrived"),
    Feature("beta", "1", "weight of TTFT beside E2E: 10 (beta / 10)^1.4"),
    Feature("expected_output", "tokens", "mean output of what has completed"),
    Feature("all_prompts", "tokens", "mean prompt of all: completed, outstanding, arriving"),
    Feature("replicas", "replicas", "available"),
    Feature("capacity", "of the fastest replica", "sum of the relative speeds"),
    Feature("prefill_cost", "decode iterations", "time to read 1,000 tokens on the fastest replica"),
    Feature("gauge_age", "seconds", "since the gauges were read"),
)


def _queue_features(depth: int) -> tuple[Feature, ...]:
    ages = [
        Feature(f"queue_{i}_age", "decode iterations", f"age of number {i} without a first token") for i in range(depth)
    ]
    prompts = [Feature(f"queue_{i}_prompt", "decode iterations", "time to read its prompt") for i in range(depth)]
    return (*ages, *prompts)


@dataclass(frozen=True)
class EncoderSpec:
    """What each number is: `replica` once for each replica, then `context`."""

    replica: tuple[Feature, ...]
    context: tuple[Feature, ...]

    def names(self) -> dict[str, list[str]]:
        return {"replica": [f.name for f in self.replica], "context": [f.name for f in self.context]}

    @classmethod
    def of(cls, max_queue_requests: int) -> EncoderSpec:
        features = _AGGREGATES + _queue_features(max_queue_requests) + _INTERACTIONS
        assert len(features) == kernel.feature_count(max_queue_requests) and len(_CONTEXT) == kernel.CONTEXT
        return cls(features, _CONTEXT)


class StateEncoder:
    """Encodes observations of a cluster of `num_replicas`.

    Each replica has the aggregates, then the age and the prompt of the `max_queue_requests` requests that were placed
    first of those without a first token, then interactions. A decode iteration is that of the fastest replica.
    """

    def __init__(self, num_replicas: int, max_queue_requests: int = DEFAULT_QUEUE_REQUESTS) -> None:
        if num_replicas < 1:
            raise ValueError(f"a cluster has at least one replica, not {num_replicas}")
        if max_queue_requests < 0:
            raise ValueError(f"max_queue_requests must be at least 0, not {max_queue_requests}")
        self.num_replicas = num_replicas
        self.max_queue_requests = max_queue_requests
        self.spec = EncoderSpec.of(max_queue_requests)
        self._x = np.zeros((self.replica_dimension, num_replicas))
        self._facts = np.zeros((kernel.FACTS, num_replicas))
        # Of arrays that stay the same, views of the rows, which cost as much to make as to use.
        self._rows, self._constants = list(self._x), list(self._facts)
        self._hardware: Floats | None = None
        self._ledger: Floats | None = None
        self._columns: list[Floats] = []
        self._context = np.zeros(self.context_dimension)

    @property
    def replica_dimension(self) -> int:
        return len(self.spec.replica)

    @property
    def context_dimension(self) -> int:
        return len(self.spec.context)

    @property
    def flat_dimension(self) -> int:
        """Of `flatten`: every replica's features and whether it is available, then the context."""
        return self.num_replicas * (self.replica_dimension + 1) + self.context_dimension

    def encode(self, observation: ClusterObservation, beta: float) -> tuple[Floats, Floats]:
        """(float64[replicas, replica_dimension], float64[context_dimension]); the next call overwrites both.

        The observation's ledger has the columns of `max_queue_requests` waiting requests (QUEUE_AGE) or more.
        """
        assert observation.ledger.shape[1] >= LEDGER_COLUMNS + QUEUE_COLUMNS * self.max_queue_requests
        if observation.hardware is not self._hardware:
            # A cluster's hardware is one array for good.
            self._hardware = observation.hardware
            kernel.derive_facts(observation.hardware, self._facts)
        if observation.ledger is not self._ledger:
            self._ledger = observation.ledger
            self._columns = list(observation.ledger.T)
        sums: list[float] = np.add.reduce(observation.ledger).tolist()
        mean_prompt = float(
            kernel.mean_prompt_of_all(
                sums[OUTSTANDING], sums[PROMPT_TOKENS], observation.arrival, observation.completions
            )
        )
        kernel.encode_rows(
            observation.ledger, observation.gauges, self._facts, observation.arrival, observation.completions,
            mean_prompt, self._x, self._columns, self._constants, self._rows,
        )  # fmt: skip
        kernel.encode_context(
            observation.gauges, self._facts, observation.arrival, observation.completions, mean_prompt, beta,
            int(np.count_nonzero(observation.available)), self._context,
        )  # fmt: skip
        return self._x.T, self._context

    def flatten(self, x: Floats, context: Floats, available: NDArray[np.bool_]) -> NDArray[np.float32]:
        """float32[flat_dimension], for a plain network; the features of a replica that is away are 0."""
        blocks = np.concatenate([np.where(available[:, None], x, 0.0), available[:, None]], axis=1)
        return np.concatenate([blocks.ravel(), context]).astype(np.float32)

    def flat_names(self) -> list[str]:
        """What each number of `flatten` is, in order."""
        blocks = [
            f"replica_{replica}.{name}"
            for replica in range(self.num_replicas)
            for name in (*(feature.name for feature in self.spec.replica), "available")
        ]
        return [*blocks, *(feature.name for feature in self.spec.context)]


def spec_difference(ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]]) -> str:
    """In words, how the features of a checkpoint (`theirs`) differ from ours; empty if they do not."""
    parts = []
    for kind in ("replica", "context"):
        mine, other = list(ours[kind]), list(theirs.get(kind, ()))
        extra = [name for name in other if name not in mine]
        missing = [name for name in mine if name not in other]
        if extra:
            parts.append(f"it has {kind} features unknown here: {', '.join(extra)}")
        if missing:
            parts.append(f"it lacks {kind} features: {', '.join(missing)}")
        if not extra and not missing and mine != other:
            parts.append(f"its {kind} features are in another order")
    return "; ".join(parts)
