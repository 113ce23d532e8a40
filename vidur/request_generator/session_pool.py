"""Sessions: several requests each, which follow one another, and the table of those that begin or are under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vidur.config import BaseSessionsRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator.arrivals import MOST_REQUESTS, arrival_times
from vidur.request_generator.content import ID_GAP, Content, Turns, ranges
from vidur.request_generator.request_table import FloatArray, IntArray, RequestTable


@dataclass(frozen=True)
class SessionPool:
    """S sessions of M requests in all, session by session, and within each a request behind those that it follows."""

    offsets: IntArray  # [S + 1] requests offsets[i] to offsets[i + 1] belong to session i; at least one
    at: FloatArray  # [M] seconds from the session's begin to the arrival, or to what is expected of it
    prefill: IntArray  # [M] tokens
    decode: IntArray  # [M] tokens
    think: FloatArray  # [M] seconds
    parents: IntArray  # [E] request children[i] follows request parents[i]
    children: IntArray  # [E] not descending
    content: Content  # ids from `common` on are a session's own: another session's equal ones are other content
    common: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lifetimes(self) -> FloatArray:
        """float64[S]: seconds from the begin to the last arrival."""
        return np.asarray(np.maximum.reduceat(self.at, self.offsets[:-1]))

    def take(self, sessions: IntArray) -> SessionPool:
        """Return these sessions, each a new one with content of its own, however often it is taken."""
        counts = np.diff(self.offsets)[sessions]
        rows = ranges(self.offsets[:-1][sessions], counts)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        edge_offsets = np.searchsorted(self.children, self.offsets)
        edge_counts = np.diff(edge_offsets)[sessions]
        edges = ranges(edge_offsets[:-1][sessions], edge_counts)
        moved = np.repeat(offsets[:-1] - self.offsets[:-1][sessions], edge_counts)
        content = self.content.take(rows)
        own = content.first >= self.common
        spans = self._spans()[sessions] + ID_GAP
        base = ID_GAP + np.cumsum(spans) - spans
        run_counts = np.diff(content.offsets[offsets])
        first = content.first + np.where(own, np.repeat(base, run_counts), 0)
        return SessionPool(
            offsets,
            self.at[rows],
            self.prefill[rows],
            self.decode[rows],
            self.think[rows],
            self.parents[edges] + moved,
            self.children[edges] + moved,
            Content(content.offsets, first, content.lengths, content.granularity),
            self.common,
        )

    def _spans(self) -> IntArray:
        """int64[S]: how many ids from `common` on a session uses."""
        used = np.maximum(self.content.first + self.content.lengths - self.common, 0)
        owner = np.repeat(np.arange(len(self)), np.diff(self.content.offsets[self.offsets]))
        spans = np.zeros(len(self), np.int64)
        np.maximum.at(spans, owner, used)
        return spans


Draw = Callable[[int], tuple[SessionPool, IntArray]]
"""Called with a number, returns a pool and so many sessions of it, which begin one after the other."""


def session_table(config: BaseSessionsRequestGeneratorConfig, draw: Draw, source: str) -> RequestTable:
    """Return the requests of the sessions that begin, and of those under way at 0, as `config` says.

    Raises InputError if no request arrives in time, or there are too many.
    """
    count = config.num_sessions or 64
    while True:
        pool, dealt = draw(count)
        starts = arrival_times(config, count)
        old, ages = _under_way(config, pool)
        taken = pool.take(np.concatenate([old, dealt[: len(starts)]]))
        at = taken.at + np.repeat(np.concatenate([-ages, starts]), np.diff(taken.offsets))
        kept = _first_requests(config, at)
        if len(starts) < count or count == config.num_sessions or _is_complete(config, at[kept], starts[-1]):
            break
        count = max(2 * count, _guess(config, pool))
        if count > MOST_REQUESTS:
            raise InputError(f"more than {MOST_REQUESTS} sessions begin: {config.flag('duration')} is too long")
    if not len(kept):
        raise InputError(f"no request arrives in {config.flag('duration')} {config.duration:g}: lengthen it")
    table = _table(config, taken, at, kept, source)
    seen = np.bincount(table.session_id) > 0
    underway = np.count_nonzero(seen[: len(old)])
    source += f": {len(kept)} requests of {np.count_nonzero(seen)} sessions, {underway} of them under way at 0, "
    source += config.mode
    return replace(table, source=f"{source}, seed {config.seed}")


def _under_way(config: BaseSessionsRequestGeneratorConfig, pool: SessionPool) -> tuple[IntArray, FloatArray]:
    """Draw the sessions under way at time 0, and their ages in seconds.

    At a constant rate there are rate x mean lifetime of them, a long one is met in proportion to its lifetime, and at
    an age that is uniform in it.
    """
    intervals, lifetimes = config.interval_generator_config, pool.lifetimes()
    if not config.mid_life or not hasattr(intervals, "qps") or not lifetimes.any():
        return np.zeros(0, np.int64), np.zeros(0)
    expected = intervals.qps / intervals.mean_gap * lifetimes.mean()
    if expected * len(pool.at) / len(pool) > MOST_REQUESTS:
        raise InputError(f"{expected:.3g} sessions are under way at time 0: lower the rate, or use --no-mid_life")
    generator = np.random.default_rng((config.seed, 1))
    share = lifetimes / lifetimes.sum()
    sessions = generator.choice(len(pool), round(expected), p=share)
    return sessions, generator.random(len(sessions)) * lifetimes[sessions]


def _first_requests(config: BaseSessionsRequestGeneratorConfig, at: FloatArray) -> IntArray:
    """Return the requests to send, by arrival: from 0 on, and before the duration or as many as are wanted."""
    inside = np.flatnonzero((at >= 0) & (at < (config.duration or np.inf)))
    kept = inside[np.argsort(at[inside], kind="stable")]
    return kept if config.duration or config.num_sessions else kept[: config.num_requests]


def _is_complete(config: BaseSessionsRequestGeneratorConfig, arrivals: FloatArray, last_start: float) -> bool:
    """Whether later sessions have no request among the first ones."""
    if config.duration is not None:
        return bool(last_start >= config.duration)
    return len(arrivals) == config.num_requests and bool(arrivals[-1] <= last_start)


def _guess(config: BaseSessionsRequestGeneratorConfig, pool: SessionPool) -> int:
    """Return how many sessions will probably be enough."""
    if config.duration is not None:
        return int(1.1 * config.duration * getattr(config.interval_generator_config, "qps", 0.0)) + 100
    return int(1.1 * (config.num_requests or 0) * len(pool) / len(pool.at)) + 100


def _table(
    config: BaseSessionsRequestGeneratorConfig, pool: SessionPool, at: FloatArray, kept: IntArray, source: str
) -> RequestTable:
    """Make the table of the pool's requests `kept`, which are in order of their arrivals `at`."""
    turns = None
    if config.mode == "closed_loop":
        number = np.full(len(at), -1, np.int64)
        number[kept] = np.arange(len(kept))
        parents, children = number[pool.parents], number[pool.children]
        both = (parents >= 0) & (children >= 0)
        turns = Turns.of_edges(parents[both], children[both], pool.think[kept])
    return RequestTable.of(
        at[kept],
        pool.prefill[kept],
        pool.decode[kept],
        source,
        session_id=np.repeat(np.arange(len(pool)), np.diff(pool.offsets))[kept],
        content=pool.content.take(kept),
        turns=turns,
    )
