"""What a request takes from the others of its replica, estimated from a decision log.

While a request streams, an iteration takes `base`, and each token that others hold in the KV-cache adds `per_kv_token`;
each of their prompt tokens that is read in the meantime adds `per_prompt_token`:

    seconds after the first token = base * tokens + per_kv_token * tokens * KV tokens + per_prompt_token * prompt tokens

fitted, divided by the tokens, to all streams on one kind of hardware. A request with p prompt tokens and t output
tokens so takes (per_prompt_token p + per_kv_token t (p + t / 2)) seconds from each of the others there. They then stay
longer and meet more of what comes later: with s the share of a stream's time that others account for, all that adds up
to 1 / (1 - s) times as much. Without this a policy learns to crowd the fastest replica, which is best for each request
and bad for all.

Of a request whose first token nobody saw, as of an answer of one piece, the pace is unknown. It is company to others
all the same, from where its first token would have come at the median pace of streams.
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

# Streams of fewer tokens say little of their pace.
_FEWEST_TOKENS = 8
# Fewer requests than these fit no line; the hardware's facts must do.
_FEWEST_REQUESTS = 50
_LARGEST_SHARE = 0.8
# Residuals count by their size beyond so many standard deviations (Huber), which these need of the median.
_HUBER = 1.345
_DEVIATIONS = 1.4826
_ITERATIONS = 50

Hardware: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Pace:
    """Of one kind of hardware: seconds. share: of a stream's time, that others account for, on average."""

    per_kv_token: float
    per_prompt_token: float
    share: float


@dataclass(frozen=True)
class Congestion:
    """The paces by hardware: relative speed, and seconds of a prompt token and of an iteration."""

    paces: dict[Hardware, Pace]

    @classmethod
    def of(cls, log: Sequence[LoggedDecision]) -> Congestion:
        """From all lines of a log."""
        rows = [row for row in (_Row.of(logged) for logged in log) if row.end > row.placed]
        usual = {hardware: _usual_pace(rows, hardware) for hardware in {row.hardware for row in rows}}
        streams: dict[Hardware, list[tuple[float, float, float, float]]] = {}
        for name in {row.name for row in rows}:
            here = sorted((row for row in rows if row.name == name), key=lambda row: row.placed)
            for row, (held, read) in zip(here, _company(here, usual), strict=True):
                pace = row.pace
                if pace is not None:
                    streams.setdefault(row.hardware, []).append((held, read / row.tokens, pace, float(row.tokens)))
        found = {row.hardware: _assumed(row.hardware) for row in rows}
        return cls(found | {hardware: _fit(hardware, np.array(items)) for hardware, items in streams.items()})

    def taken(self, logged: LoggedDecision) -> Floats:
        """float64[replicas]: seconds that the request takes, or would have taken, from the others of each replica."""
        seen, served = logged.observation, logged.served
        taken = np.zeros(seen.num_replicas)
        for replica, row in enumerate(seen.hardware):
            pace = self.paces.get(_kind(row)) or _assumed(_kind(row))
            held = served.prompt_tokens + 0.5 * served.output_tokens
            each = pace.per_prompt_token * served.prompt_tokens + pace.per_kv_token * served.output_tokens * held
            taken[replica] = seen.ledger[replica, OUTSTANDING] * each / (1.0 - pace.share)
        return taken


@dataclass(frozen=True)
class _Row:
    """A request on its replica: when it was placed, streamed first (None: not seen), and ended, on the log's wall
    clock. tokens: after the first."""

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
        """Seconds per token after the first, where they were seen and tell something."""
        return None if self.first is None or self.tokens < _FEWEST_TOKENS else (self.end - self.first) / self.tokens


def _kind(row: Floats) -> Hardware:
    return float(row[SPEED]), float(row[PREFILL_SECONDS]), float(row[DECODE_SECONDS])


def _assumed(hardware: Hardware) -> Pace:
    """Where nothing is measured: prompts are read at the rate that the configuration gives."""
    return Pace(0.0, hardware[1], 0.0)


def _usual_pace(rows: Sequence[_Row], hardware: Hardware) -> float:
    """The median; that of the configuration where nothing is measured."""
    paces = [row.pace for row in rows if row.hardware == hardware and row.pace is not None]
    return float(np.median(paces)) if paces else hardware[2]


def _company(rows: Sequence[_Row], usual: dict[Hardware, float]) -> list[tuple[float, float]]:
    """Of each request of one replica, while it streams: how many tokens of others are in the KV-cache, on average, and
    how many prompt tokens of others are read. A prompt is read, and held with half of the output, from the first token
    on."""
    held = np.array([row.prompt + 0.5 * row.tokens for row in rows])
    end = np.array([row.end for row in rows])
    first = np.array([
        max(row.placed, row.end - row.tokens * usual[row.hardware]) if row.first is None else row.first for row in rows
    ])  # fmt: skip
    times = np.concatenate([first, end])
    order = np.argsort(times, kind="stable")
    times = times[order]
    now_held = np.cumsum(np.concatenate([held, -held])[order])
    integral = np.concatenate([[0.0], np.cumsum(now_held[:-1] * np.diff(times))])
    by_first = np.argsort(first, kind="stable")
    read = np.concatenate([[0.0], np.cumsum([rows[index].prompt for index in by_first])])
    seconds = np.maximum(end - first, 1e-9)
    others = (np.interp(end, times, integral) - np.interp(first, times, integral)) / seconds - held
    prompts = (
        read[np.searchsorted(first[by_first], end, side="right")]
        - read[np.searchsorted(first[by_first], first, side="right")]
    )
    return list(zip(np.maximum(others, 0.0).tolist(), prompts.tolist(), strict=True))


def _fit(hardware: Hardware, items: NDArray[np.float64]) -> Pace:
    """items: float64[N, 4], of each stream the KV tokens of others, the prompt tokens of others that were read per
    token of its own, the seconds per token, and the tokens.

    Of seconds per token, so that long streams do not decide alone; and by Huber's loss, so that a few odd ones, which a
    proxy held back and sent at once, or which stood still, do not either.
    """
    if len(items) < _FEWEST_REQUESTS:
        return _assumed(hardware)
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
        return _assumed(hardware)
    return Pace(float(values[1]), float(values[2]), min(float(parts[1:].sum() / parts.sum()), _LARGEST_SHARE))
