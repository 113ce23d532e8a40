"""The requests of a simulation, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidur.request_generator.content import Content, Turns

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RequestTable:
    """N requests in order of arrival; a request's number is its index. Do not write to the arrays."""

    arrived_at: FloatArray  # [N] seconds, not descending; an estimate for a request that follows another
    num_prefill_tokens: IntArray  # [N] at least 1
    num_decode_tokens: IntArray  # [N] at least 1: the first one comes with the end of the prefill
    session_id: IntArray  # [N] -1: none
    priority: IntArray  # [N]
    source: str  # where the requests come from and how they were changed, in one line
    content: Content | None = None  # what prompts and outputs contain, if known
    turns: Turns | None = None  # which requests follow others; None if all arrive by the clock

    @classmethod
    def of(
        cls,
        arrived_at: FloatArray,
        num_prefill_tokens: IntArray,
        num_decode_tokens: IntArray,
        source: str,
        session_id: IntArray | None = None,
        priority: IntArray | None = None,
        content: Content | None = None,
        turns: Turns | None = None,
    ) -> RequestTable:
        """Make a valid table, stably sorted by arrival.

        A request that follows another is put behind it, and its estimated arrival raised to the other's if it is
        earlier.
        """
        count, order = len(arrived_at), None
        if turns is not None:
            arrived_at, level = turns.in_time(arrived_at)
            order = np.lexsort((level, arrived_at))
        elif not is_sorted(arrived_at):
            order = np.argsort(arrived_at, kind="stable")
        session_id = np.full(count, -1, np.int64) if session_id is None else session_id
        priority = np.zeros(count, np.int64) if priority is None else priority
        table = cls(arrived_at, num_prefill_tokens, num_decode_tokens, session_id, priority, source, content, turns)
        if order is not None:
            table = table._in_order(order)
        table.validate()
        return table

    def _in_order(self, order: npt.NDArray[np.intp]) -> RequestTable:
        return RequestTable(
            self.arrived_at[order],
            self.num_prefill_tokens[order],
            self.num_decode_tokens[order],
            self.session_id[order],
            self.priority[order],
            self.source,
            None if self.content is None else self.content.take(order),
            None if self.turns is None else self.turns.take(order),
        )

    def __len__(self) -> int:
        return len(self.arrived_at)

    def first_turns_at(self) -> FloatArray:
        """Return the arrival times of the requests that follow no other, ascending."""
        if self.turns is None:
            return self.arrived_at
        return np.asarray(self.arrived_at[self.turns.num_parents() == 0])

    def validate(self) -> None:
        """Assert the properties of the fields."""
        assert self.arrived_at.dtype == np.float64
        for column in (self.num_prefill_tokens, self.num_decode_tokens, self.session_id, self.priority):
            assert column.dtype == np.int64 and column.shape == self.arrived_at.shape == (len(self),)
        assert np.isfinite(self.arrived_at).all() and (self.arrived_at >= 0).all()
        assert is_sorted(self.arrived_at)
        assert (self.num_prefill_tokens >= 1).all() and (self.num_decode_tokens >= 1).all()
        assert (self.session_id >= -1).all()
        if self.content is not None:
            self.content.validate(len(self), self.num_prefill_tokens + self.num_decode_tokens)
        if self.turns is not None:
            self.turns.validate(len(self))


def is_sorted(values: FloatArray) -> bool:
    return bool((values[1:] >= values[:-1]).all())
