"""The router's ledger counts what was placed, has streamed back, and has ended.

The arrays are those of vidur.observation, and the counts those of vidur.engine.ledger in a simulation.
"""

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
    """A replica's row in the arrays (-1 once removed), and its outstanding requests in the order of placement."""

    __slots__ = ("awaiting", "placed", "row")

    def __init__(self, row: int) -> None:
        self.row = row
        # Dictionaries serve as ordered sets, from which any request is removed in constant time.
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
    """How an ended request was served, in seconds and tokens. ttft: None without any token."""

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
    """An exact account of all requests, in constant time per event.

    queue_depth: requests per replica without a first token whose age and prompt are observed. Times are seconds on a
    monotonic clock of the caller's. A ticket is valid for `stream` until `finish` or `drop`, which raise KeyError when
    called again. Tickets of a removed replica stay valid, but count for no replica.
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
        """Enter a request on `replica` and return its ticket. streams: whether its tokens are streamed."""
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
        """Count `tokens` >= 1 more output tokens. The first call marks the first token."""
        request = self._requests[ticket]
        row = request.books.row
        if request.first_token_at is None:
            request.first_token_at = now
            self._leave_queue(ticket, request)
        elif row >= 0:
            self._count_itl(row, (now - request.last_token_at) / tokens, tokens)
        request.last_token_at = now
        request.streamed += tokens
        if row >= 0:
            self._arrays[row, STREAMED_TOKENS] += tokens

    def finish(self, ticket: int, now: float, output_tokens: int | None = None) -> Served:
        """End a successful request. output_tokens: as the replica counted them; by default those that streamed.

        If nothing streamed, the end counts as the first token.
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
        # An output has at least one token, the end of the sequence.
        bin_ = output_bin(max(output, 1))
        totals[HISTOGRAM_COUNTS + bin_] += 1
        totals[HISTOGRAM_SUMS + bin_] += output
        if totals[COMPLETED_COUNT] >= COMPLETIONS_KEPT:
            totals *= 0.5
        return served

    def drop(self, ticket: int, now: float) -> Served:
        """Remove a request that failed or was cancelled; it is not a completion."""
        request = self._requests[ticket]
        served = self._served(request, now, None)
        self._drop(ticket, request)
        return served

    def settle(self, replica: int, waiting: int, reported_at: float) -> None:
        """Use the report that `waiting` requests were in the replica's queue.

        Queues are first come, first served: of the requests placed before the report, all but the last `waiting` have
        left the queue. Those of them that do not stream, and so show no first token, count as prefilled.
        """
        books = self._books[replica]
        if all(request.streams for request in books.awaiting.values()):
            return
        before = [item for item in books.awaiting.items() if item[1].placed_at < reported_at]
        for ticket, request in before[: max(len(before) - waiting, 0)]:
            if not request.streams:
                self._leave_queue(ticket, request)

    def observe(self, now: float) -> Floats:
        """Return float64[replicas, LEDGER_COLUMNS + QUEUE_COLUMNS * queue_depth], a view valid until the next event."""
        if self.queue_depth:
            np.subtract(now, self._queue_arrived, out=self._queue_ages)
            self._queue_ages *= self._queue_filled
        return self._arrays

    def placed(self, replica: int) -> PlacedRequests:
        """Return the outstanding requests of a replica in the order of placement; `request` has their tickets."""
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
        """Append a replica and return its number. Arrays observed before become invalid."""
        self._books.append(_Books(self.num_replicas))
        self.num_replicas += 1
        self._allocate(np.concatenate([self._arrays[:, :LEDGER_COLUMNS], np.zeros((1, LEDGER_COLUMNS))]))
        return self.num_replicas - 1

    def remove_replica(self, replica: int) -> None:
        """Remove a replica; those after it move up. Its outstanding requests no longer count."""
        self._books.pop(replica).row = -1
        for books in self._books[replica:]:
            books.row -= 1
        self.num_replicas -= 1
        self._allocate(np.delete(self._arrays[:, :LEDGER_COLUMNS], replica, axis=0))

    @property
    def outstanding(self) -> int:
        """The number of requests that have not ended, including those of removed replicas."""
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
        """Write the oldest requests without a first token into the arrays."""
        if not self.queue_depth:
            return
        row = books.row
        self._queue_filled[row] = 0.0
        self._queue_prompts[row] = 0.0
        for i, request in enumerate(islice(books.awaiting.values(), self.queue_depth)):
            self._queue_filled[row, i] = 1.0
            self._queue_arrived[row, i] = request.arrived_at
            self._queue_prompts[row, i] = request.prompt_tokens

    def _leave_queue(self, ticket: int, request: _Request) -> None:
        """Note that a request no longer waits for its first token; it may have left the queue before."""
        books = request.books
        if books.awaiting.pop(ticket, None) is None or books.row < 0:
            return
        row = self._arrays[books.row]
        row[AWAITING] -= 1
        row[AWAITING_TOKENS] -= request.prompt_tokens
        self._show_queue(books)

    def _count_itl(self, row: int, seconds: float, tokens: int) -> None:
        """Update the moving average of the ITL.

        A simulated iteration counts once; here each stream reports it, so each stream gets its share of the weight.
        """
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
