"""The router's own books: what it placed, what has streamed back, what has ended. The arrays are those of
vidur.observation, and the counts those that vidur.engine.ledger keeps in a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from vidur.observation import (
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_E2E,
    COMPLETED_OUTPUT,
    COMPLETED_PROMPT,
    COMPLETED_TTFT,
    COMPLETION_COLUMNS,
    COMPLETIONS_KEPT,
    FINISHED,
    HISTOGRAM_COUNTS,
    HISTOGRAM_SUMS,
    ITL_EWMA,
    ITL_EWMA_WEIGHT,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_AGE,
    QUEUE_COLUMNS,
    QUEUE_PROMPT,
    STREAMED_TOKENS,
    Floats,
    PlacedRequests,
    output_bin,
)


class _Books:
    """One replica: its row of the arrays, and its outstanding requests in the order they were placed."""

    __slots__ = ("awaiting", "placed", "row")

    def __init__(self, row: int) -> None:
        self.row = row
        # Dictionaries as ordered sets: from either, any request leaves in constant time.
        self.placed: dict[int, _Request] = {}
        self.awaiting: dict[int, _Request] = {}


@dataclass(slots=True)
class _Request:
    books: _Books
    prompt_tokens: int
    arrived_at: float
    placed_at: float
    streams: bool
    streamed: int = 0
    first_token_at: float | None = None
    last_token_at: float = 0.0


@dataclass(frozen=True)
class Served:
    """How an ended request was served: seconds and tokens. ttft is None if no token came."""

    prompt_tokens: int
    output_tokens: int
    ttft: float | None
    e2e: float

    @property
    def tpot(self) -> float | None:
        """Mean seconds per output token after the first."""
        if self.ttft is None or self.output_tokens < 2:
            return None
        return (self.e2e - self.ttft) / (self.output_tokens - 1)


@dataclass
class Ledger:
    """Exact and immediate; each event takes constant time, and an ended request leaves nothing behind but its counts.

    queue_depth: of how many requests without a first token, per replica, age and prompt are observed. Times are seconds
    on one clock of the caller's that does not go back. A ticket is good for `stream` until `finish` or `drop`, which
    raise KeyError when called again; the tickets of a replica that was removed stay good, and count for none.
    """

    num_replicas: int
    queue_depth: int = 0
    completions: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.completions = np.zeros(COMPLETION_COLUMNS)
        self._books = [_Books(row) for row in range(self.num_replicas)]
        self._requests: dict[int, _Request] = {}
        self._tickets = 0
        self._allocate(np.zeros((self.num_replicas, LEDGER_COLUMNS)))

    def place(self, replica: int, prompt_tokens: int, arrived_at: float, now: float, streams: bool = True) -> int:
        """A request went to `replica`. Returns its ticket. streams: whether its tokens will be seen one by one."""
        books = self._books[replica]
        request = _Request(books, prompt_tokens, arrived_at, now, streams)
        ticket = self._tickets
        self._tickets += 1
        self._requests[ticket] = books.placed[ticket] = books.awaiting[ticket] = request
        row = self._arrays[replica]
        row[OUTSTANDING] += 1
        row[AWAITING] += 1
        row[PROMPT_TOKENS] += prompt_tokens
        row[AWAITING_TOKENS] += prompt_tokens
        if len(books.awaiting) <= self.queue_depth:
            self._show_queue(books)
        return ticket

    def stream(self, ticket: int, tokens: int, now: float) -> None:
        """`tokens` >= 1 more of the output came, now. The first call is the first token."""
        request = self._requests[ticket]
        row = request.books.row
        if request.first_token_at is None:
            request.first_token_at = now
            self._leave_queue(ticket, request)
        elif row >= 0:
            self._count_token_seconds(row, (now - request.last_token_at) / tokens, tokens)
        request.last_token_at = now
        request.streamed += tokens
        if row >= 0:
            self._arrays[row, STREAMED_TOKENS] += tokens

    def finish(self, ticket: int, now: float, output_tokens: int | None = None) -> Served:
        """The request has ended well. output_tokens: as the replica counted them; else what has streamed.

        Where nothing has streamed, as in a response of one piece, the end is the first token.
        """
        request = self._requests[ticket]
        served = self._served(request, now, output_tokens)
        self._drop(ticket, request)
        if request.books.row >= 0:
            self._arrays[request.books.row, FINISHED] += 1
        output = served.output_tokens
        totals = self.completions
        totals[COMPLETED_COUNT] += 1
        totals[COMPLETED_OUTPUT] += output
        totals[COMPLETED_PROMPT] += request.prompt_tokens
        totals[COMPLETED_E2E] += served.e2e
        totals[COMPLETED_TTFT] += served.e2e if served.ttft is None else served.ttft
        # No output is shorter than one token, which holds for a refusal to say anything too.
        bin_ = output_bin(max(output, 1))
        totals[HISTOGRAM_COUNTS + bin_] += 1
        totals[HISTOGRAM_SUMS + bin_] += output
        if totals[COMPLETED_COUNT] >= COMPLETIONS_KEPT:
            totals *= 0.5
        return served

    def drop(self, ticket: int, now: float) -> Served:
        """The request failed or was cancelled: it leaves the books, and is no completion."""
        request = self._requests[ticket]
        served = self._served(request, now, None)
        self._drop(ticket, request)
        return served

    def settle(self, replica: int, waiting: int, at: float) -> None:
        """`replica` has reported that `waiting` requests were in its queue at `at`. Of the requests placed before, all
        but the last `waiting` have left it, as queues are first come, first served: of those that do not stream, which
        show no first token, the prompts count as read."""
        books = self._books[replica]
        if all(request.streams for request in books.awaiting.values()):
            return
        before = [item for item in books.awaiting.items() if item[1].placed_at < at]
        for ticket, request in before[: max(len(before) - waiting, 0)]:
            if not request.streams:
                self._leave_queue(ticket, request)

    def observe(self, now: float) -> Floats:
        """float64[replicas, LEDGER_COLUMNS + QUEUE_COLUMNS * queue_depth]: a view, good until the next event."""
        if self.queue_depth:
            np.subtract(now, self._queue_arrived, out=self._queue_ages)
            self._queue_ages *= self._queue_filled
        return self._arrays

    def placed(self, replica: int) -> PlacedRequests:
        """The outstanding requests of a replica, in the order they were placed; `request` is their ticket."""
        items = self._books[replica].placed
        requests = list(items.values())
        return PlacedRequests(
            request=np.array(list(items), np.int64),
            arrived_at=np.array([request.arrived_at for request in requests], np.float64),
            placed_at=np.array([request.placed_at for request in requests], np.float64),
            prompt_tokens=np.array([request.prompt_tokens for request in requests], np.int64),
            streamed_tokens=np.array([request.streamed for request in requests], np.int64),
            has_first_token=np.array([request.first_token_at is not None for request in requests], np.bool_),
        )

    def add_replica(self) -> int:
        """Append a replica and return its number. Arrays observed before are of no more use."""
        self._books.append(_Books(self.num_replicas))
        self.num_replicas += 1
        self._allocate(np.concatenate([self._arrays[:, :LEDGER_COLUMNS], np.zeros((1, LEDGER_COLUMNS))]))
        return self.num_replicas - 1

    def remove_replica(self, replica: int) -> None:
        """Forget a replica; those after it move up. Its outstanding requests end as they do, and count for none."""
        self._books.pop(replica).row = -1
        for books in self._books[replica:]:
            books.row -= 1
        self.num_replicas -= 1
        self._allocate(np.delete(self._arrays[:, :LEDGER_COLUMNS], replica, axis=0))

    @property
    def outstanding(self) -> int:
        """Requests that have not ended, those of removed replicas included."""
        return len(self._requests)

    def _allocate(self, rows: Floats) -> None:
        depth = self.queue_depth
        self._arrays = np.zeros((len(rows), LEDGER_COLUMNS + QUEUE_COLUMNS * depth))
        self._arrays[:, :LEDGER_COLUMNS] = rows
        self._queue_ages = self._arrays[:, QUEUE_AGE::QUEUE_COLUMNS]
        self._queue_prompts = self._arrays[:, QUEUE_PROMPT::QUEUE_COLUMNS]
        self._queue_arrived = np.zeros((len(rows), depth))
        self._queue_filled = np.zeros((len(rows), depth))
        for books in self._books:
            self._show_queue(books)

    def _show_queue(self, books: _Books) -> None:
        """Write the head of a replica's queue for a first token into the arrays."""
        if not self.queue_depth:
            return
        row = books.row
        self._queue_filled[row] = 0.0
        self._queue_prompts[row] = 0.0
        for place, request in enumerate(islice(books.awaiting.values(), self.queue_depth)):
            self._queue_filled[row, place] = 1.0
            self._queue_arrived[row, place] = request.arrived_at
            self._queue_prompts[row, place] = request.prompt_tokens

    def _leave_queue(self, ticket: int, request: _Request) -> None:
        """The request no longer waits for its first token; it may have left before."""
        books = request.books
        if books.awaiting.pop(ticket, None) is None or books.row < 0:
            return
        row = self._arrays[books.row]
        row[AWAITING] -= 1
        row[AWAITING_TOKENS] -= request.prompt_tokens
        self._show_queue(books)

    def _count_token_seconds(self, row: int, seconds: float, tokens: int) -> None:
        """A simulated iteration counts once, with all its streams; here each stream tells of it, so each has its part
        of the weight."""
        values = self._arrays[row]
        known = values[ITL_EWMA]
        if known == 0.0:
            values[ITL_EWMA] = seconds
            return
        streams = max(values[OUTSTANDING] - values[AWAITING], 1.0)
        values[ITL_EWMA] = known + min(1.0, ITL_EWMA_WEIGHT * tokens / streams) * (seconds - known)

    def _served(self, request: _Request, now: float, output_tokens: int | None) -> Served:
        first = request.first_token_at
        return Served(
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.streamed if output_tokens is None else output_tokens,
            ttft=None if first is None else first - request.arrived_at,
            e2e=now - request.arrived_at,
        )

    def _drop(self, ticket: int, request: _Request) -> None:
        del self._requests[ticket]
        del request.books.placed[ticket]
        self._leave_queue(ticket, request)
        if request.books.row >= 0:
            row = self._arrays[request.books.row]
            row[OUTSTANDING] -= 1
            row[PROMPT_TOKENS] -= request.prompt_tokens
            row[STREAMED_TOKENS] -= request.streamed
