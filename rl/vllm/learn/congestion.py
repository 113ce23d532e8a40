"""Estimate from a decision log how much a request delays the others on its replica.

While a request streams, each iteration takes `base`; each KV-cache token of other requests adds `per_kv_token`, and
each prompt token of others that is prefilled meanwhile adds `per_prompt_token`:

    seconds after the first token = base * tokens + per_kv_token * tokens * KV tokens + per_prompt_token * prompt tokens

This is fitted, divided by the tokens, to all streams on one kind of hardware. So a request with p prompt tokens and t
output tokens delays each other request by per_prompt_token p + per_kv_token t (p + t / 2) seconds. The others then stay
longer and meet more requests: if a share s of a stream's time is due to others, the total is 1 / (1 - s) times as much.
Without this, a policy learns to crowd the fastest replica, which is best for each request but bad for all.

A request that was not streamed has no pace of its own; its load on others begins where its first token would have come
at the median pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rl.vllm.calibrate.least_squares import least_squares
from rl.vllm.decide.decision_log import LoggedDecision
from vidur.observation import ARRIVAL_AGE, DECODE_SECONDS, OUTSTANDING, PREFILL_SECONDS, SPEED, Floats

# The least tokens of a stream whose pace counts.
_FEWEST_TOKENS = 8
# The least requests to fit; with fewer, the configured hardware facts are used.
_FEWEST_REQUESTS = 50
_LARGEST_SHARE = 0.8
# Huber's loss is linear beyond so many standard deviations, each of _DEVIATIONS median absolute residuals.
_HUBER = 1.345
_DEVIATIONS = 1.4826
_ITERATIONS = 50

Hardware: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Pace:
    """The fit for one kind of hardware, in seconds. share: the mean share of a stream's time that is due to others."""

    per_kv_token: float
    per_prompt_token: float
    share: float


@dataclass(frozen=True)
class Congestion:
    """The paces by kind of hardware: (relative speed, seconds of a prompt token, seconds of an iteration)."""

    paces: dict[Hardware, Pace]

    @classmethod
    def of(cls, log: Sequence[LoggedDecision]) -> Congestion:
        """Estimate the paces from all lines of a log."""
        rows = [row for row in (_Row.of(logged) for logged in log) if row.end > row.placed]
        usual = {hardware: _usual_pace(rows, hardware) for hardware in {row.hardware for row in rows}}
        streams: dict[Hardware, list[tuple[float, float, float, float]]] = {}
        for name in {row.name for row in rows}:
            on_replica = sorted((row for row in rows if row.name == name), key=lambda row: row.placed)
            for row, (kv_tokens, prompts) in zip(on_replica, _concurrent_load(on_replica, usual), strict=True):
                pace = row.pace
                if pace is not None:
                    item = (kv_tokens, prompts / row.tokens, pace, float(row.tokens))
                    streams.setdefault(row.hardware, []).append(item)
        paces = {row.hardware: _configured(row.hardware) for row in rows}
        return cls(paces | {hardware: _fit(hardware, np.array(items)) for hardware, items in streams.items()})

    def taken(self, logged: LoggedDecision) -> Floats:
        """Return by how many seconds the request delays, or would have delayed, the others on each replica."""
        seen, served = logged.observation, logged.served
        taken = np.zeros(seen.num_replicas)
        for replica, row in enumerate(seen.hardware):
            pace = self.paces.get(_kind(row)) or _configured(_kind(row))
            kv_tokens = served.prompt_tokens + 0.5 * served.output_tokens
            delay = pace.per_prompt_token * served.prompt_tokens + pace.per_kv_token * served.output_tokens * kv_tokens
            taken[replica] = seen.ledger[replica, OUTSTANDING] * delay / (1.0 - pace.share)
        return taken


@dataclass(frozen=True)
class _Row:
    """A request on its replica, with wall-clock times of its placement, first token (or None) and end.

    tokens: output tokens after the first.
    """

    name: str
    hardware: Hardware
    placed: float
    first: float | None
    end: float
    prompt: int
    tokens: int

    @classmethod
    def of(cls, logged: LoggedDecision) -> _Row:
        served = logged.served
        arrived = logged.decided_at - float(logged.observation.arrival[ARRIVAL_AGE])
        return cls(
            name=logged.replicas[logged.replica],
            hardware=_kind(logged.observation.hardware[logged.replica]),
            placed=logged.decided_at,
            first=None if served.ttft is None else arrived + served.ttft,
            end=arrived + served.e2e,
            prompt=served.prompt_tokens,
            tokens=max(served.output_tokens - 1, 0),
        )

    @property
    def pace(self) -> float | None:
        """Seconds per token after the first; None for short or unstreamed outputs."""
        return None if self.first is None or self.tokens < _FEWEST_TOKENS else (self.end - self.first) / self.tokens


def _kind(row: Floats) -> Hardware:
    return float(row[SPEED]), float(row[PREFILL_SECONDS]), float(row[DECODE_SECONDS])


def _configured(hardware: Hardware) -> Pace:
    """Return the pace without measurements: the configured time of a prompt token."""
    return Pace(0.0, hardware[1], 0.0)


def _usual_pace(rows: Sequence[_Row], hardware: Hardware) -> float:
    """Return the median pace, or the configured one without measurements."""
    paces = [row.pace for row in rows if row.hardware == hardware and row.pace is not None]
    return float(np.median(paces)) if paces else hardware[2]


def _concurrent_load(rows: Sequence[_Row], usual: dict[Hardware, float]) -> list[tuple[float, float]]:
    """Return the mean KV tokens of others, and their prefilled prompt tokens, while each request of a replica streams.

    A request counts as prefilled at its first token, and holds its prompt and half of its output from then on.
    """
    kv_tokens = np.array([row.prompt + 0.5 * row.tokens for row in rows])
    end = np.array([row.end for row in rows])
    first = np.array([
        max(row.placed, row.end - row.tokens * usual[row.hardware]) if row.first is None else row.first for row in rows
    ])  # fmt: skip
    times = np.concatenate([first, end])
    order = np.argsort(times, kind="stable")
    times = times[order]
    in_use = np.cumsum(np.concatenate([kv_tokens, -kv_tokens])[order])
    integral = np.concatenate([[0.0], np.cumsum(in_use[:-1] * np.diff(times))])
    by_first = np.argsort(first, kind="stable")
    read = np.concatenate([[0.0], np.cumsum([rows[index].prompt for index in by_first])])
    seconds = np.maximum(end - first, 1e-9)
    others = (np.interp(end, times, integral) - np.interp(first, times, integral)) / seconds - kv_tokens
    prompts = (
        read[np.searchsorted(first[by_first], end, side="right")]
        - read[np.searchsorted(first[by_first], first, side="right")]
    )
    return list(zip(np.maximum(others, 0.0).tolist(), prompts.tolist(), strict=True))


def _fit(hardware: Hardware, items: NDArray[np.float64]) -> Pace:
    """Fit a pace to streams, float64[N, 4]: others' KV tokens, others' prompt tokens per own token, pace, tokens.

    The fit is per token, so that long streams do not dominate, with Huber's loss, so that outliers, such as streams
    that a proxy delayed, do not either.
    """
    if len(items) < _FEWEST_REQUESTS:
        return _configured(hardware)
    terms, paces = np.column_stack([np.ones(len(items)), items[:, :2]]), items[:, 2]
    residuals = np.abs(paces - np.median(paces))
    values = np.zeros(3)
    for _ in range(_ITERATIONS):
        bound = max(_HUBER * _DEVIATIONS * float(np.median(residuals)), 1e-6)
        weights = np.sqrt(bound / np.maximum(residuals, bound))
        before, values = values, least_squares(terms * weights[:, None], paces * weights)
        residuals = np.abs(paces - terms @ values)
        if np.allclose(before, values, rtol=1e-4, atol=0.0):
            break
    parts = items[:, 3] @ terms * values
    if not parts.any():
        return _configured(hardware)
    return Pace(float(values[1]), float(values[2]), min(float(parts[1:].sum() / parts.sum()), _LARGEST_SHARE))
