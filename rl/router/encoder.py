"""Encode observations of a cluster as the policy's features."""

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
    """A number that the policy observes.

    normalisation: `log` takes log(1 + quantity) and standardises it with the checkpoint's statistics; `none` is for
    interactions, which are products of quantities of order 1.
    """

    name: str
    unit: str
    meaning: str
    normalisation: str = "log"


# In the order of rl.router.features.
_AGGREGATES = (
    Feature("outstanding", "requests", "requests placed here that have not ended"),
    Feature("awaiting", "requests", "outstanding requests without a first token"),
    Feature("prompt_tokens", "tokens", "prompts of the outstanding requests"),
    Feature("awaiting_tokens", "tokens", "prompts of the requests without a first token"),
    Feature("streamed_tokens", "tokens", "tokens streamed by the outstanding requests"),
    Feature("token_gap", "own decode iterations", "inter-token latency, moving average"),
    Feature("slowness", "of the fastest replica", "1 / relative speed - 1"),
    Feature("load", "requests", "outstanding / relative speed"),
    Feature("backlog", "decode iterations", "time to prefill the requests without a first token"),
    Feature("arrival", "decode iterations", "time to prefill the arriving request here"),
    Feature("context_tokens", "tokens", "prefilled and streamed tokens of the outstanding requests"),
    Feature("mean_prompt", "tokens", "mean prompt of the outstanding requests; of all, if there are none"),
    Feature("kv_expected", "tenths of the KV-cache", "use by the outstanding and arriving, with expected outputs"),
    Feature("waiting", "requests", "gauge: waiting"),
    Feature("kv_usage", "tenths of the KV-cache", "gauge: KV-cache in use"),
)
_INTERACTIONS = tuple(
    Feature(name, unit, meaning, "none")
    for name, unit, meaning in (
        ("backlog_linear", "50 iterations", "backlog"),
        ("interference", "2,000 iterations", "decoding requests here x time to prefill the arriving request"),
        ("load_linear", "30 requests", "load"),
        ("slowness_linear", "of the fastest replica", "slowness"),
        ("mean", "1", "log(mean prompt here / mean prompt of all)"),
        ("size_backlog", "1", "size x backlog_linear, where size = log(arriving prompt / mean prompt of all)"),
        ("size_interference", "1", "size x interference"),
        ("size_load", "1", "size x load_linear"),
        ("size_slowness", "1", "size x slowness_linear"),
        ("size_mean", "1", "size x mean"),
        ("load_load", "1", "load_linear squared; above 1.5, its tangent"),
        ("load_mean", "1", "load_linear x mean"),
        ("load_larger", "1", "load_linear x max(size - mean, 0)"),
        ("backlog_backlog", "1", "backlog_linear squared"),
        ("kv_excess", "of the KV-cache", "max(kv_expected - 0.7, 0)"),
        ("oldest", "50 iterations", "age of the oldest request without a first token"),
    )
)
_CONTEXT = (
    Feature("prompt", "tokens", "prompt of the arriving request"),
    Feature("age", "decode iterations", "time since it arrived"),
    Feature("beta", "1", "weight of TTFT beside E2E: 10 (beta / 10)^1.4"),
    Feature("expected_output", "tokens", "mean output of the completed requests"),
    Feature("all_prompts", "tokens", "mean prompt of all requests: completed, outstanding, arriving"),
    Feature("replicas", "replicas", "available replicas"),
    Feature("capacity", "of the fastest replica", "sum of the relative speeds"),
    Feature("prefill_cost", "decode iterations", "time to prefill 1,000 tokens on the fastest replica"),
    Feature("gauge_age", "seconds", "time since the gauges were read"),
)


def _queue_features(depth: int) -> tuple[Feature, ...]:
    ages = [Feature(f"queue_{i}_age", "decode iterations", f"age of waiting request {i}") for i in range(depth)]
    prompts = [Feature(f"queue_{i}_prompt", "decode iterations", f"time to prefill request {i}") for i in range(depth)]
    return (*ages, *prompts)


@dataclass(frozen=True)
class EncoderSpec:
    """The features in order: `replica` is repeated for each replica, then comes `context`."""

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
    """Encode observations of a cluster of `num_replicas`.

    Each replica has the aggregates, the ages and prompts of its `max_queue_requests` oldest requests without a first
    token, and the interactions. One decode iteration is that of the fastest replica.
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
        # Views of the rows, made once: to make one costs as much as to use it.
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
        """The length of `flatten`: each replica's features and whether it is available, then the context."""
        return self.num_replicas * (self.replica_dimension + 1) + self.context_dimension

    def encode(self, observation: ClusterObservation, beta: float) -> tuple[Floats, Floats]:
        """Return features [replicas, replica_dimension] and context [context_dimension]; the next call overwrites both.

        The observation's ledger must have columns (QUEUE_AGE) for `max_queue_requests` waiting requests or more.
        """
        assert observation.ledger.shape[1] >= LEDGER_COLUMNS + QUEUE_COLUMNS * self.max_queue_requests
        if observation.hardware is not self._hardware:
            # A cluster's hardware stays the same array for its lifetime.
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
        """Return float32[flat_dimension] for a plain network; an unavailable replica's features are 0."""
        blocks = np.concatenate([np.where(available[:, None], x, 0.0), available[:, None]], axis=1)
        return np.concatenate([blocks.ravel(), context]).astype(np.float32)

    def flat_names(self) -> list[str]:
        """Name each number of `flatten`, in order."""
        blocks = [
            f"replica_{replica}.{name}"
            for replica in range(self.num_replicas)
            for name in (*(feature.name for feature in self.spec.replica), "available")
        ]
        return [*blocks, *(feature.name for feature in self.spec.context)]


def spec_difference(ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]]) -> str:
    """Describe how the features of a checkpoint (`theirs`) differ from `ours`; empty if they do not."""
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
