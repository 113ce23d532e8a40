"""The arguments at which a predictor fills its tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidur.execution_time_predictor.tables import TOKEN_ROUNDING, FloatArray, TableBounds

# The prefill table has two long axes: beyond this many entries its chunks are spaced wider.
MAX_PREFILL_ENTRIES = 4_000_000


@dataclass(frozen=True)
class TableGrid:
    """Axes of the tables, each from 0."""

    tokens: FloatArray
    batch_sizes: FloatArray
    kv_of_decode: FloatArray
    kv_of_prefill: FloatArray
    chunks: FloatArray
    kv_granularity: int
    chunk_granularity: int

    @property
    def note(self) -> str:
        """A note for the user about the grid, or an empty string."""
        return coarse_chunks(self.chunk_granularity) if self.chunk_granularity > 1 else ""

    @staticmethod
    def of(bounds: TableBounds, kv_granularity: int, max_prefill_entries: int = MAX_PREFILL_ENTRIES) -> TableGrid:
        """Return the smallest grid that covers `bounds` after the rounding of lookups."""
        rounded_tokens = -(-max(bounds.max_batch_tokens, 1) // TOKEN_ROUNDING) * TOKEN_ROUNDING
        kv_rows = -(-bounds.max_prefill_kv // kv_granularity) + 1
        chunk_granularity = 1
        while kv_rows * -(-bounds.max_prefill_chunk // chunk_granularity) > max_prefill_entries:
            if chunk_granularity >= bounds.max_prefill_chunk:
                break
            chunk_granularity *= 2
        chunk_steps = -(-max(bounds.max_prefill_chunk, 1) // chunk_granularity)
        return TableGrid(
            tokens=np.arange(rounded_tokens + 1, dtype=np.float64),
            batch_sizes=np.arange(max(bounds.max_batch_size, 1) + 1, dtype=np.float64),
            kv_of_decode=_axis(bounds.max_context_tokens, kv_granularity),
            kv_of_prefill=_axis(bounds.max_prefill_kv, kv_granularity),
            chunks=np.arange(chunk_steps + 1, dtype=np.float64) * chunk_granularity,
            kv_granularity=kv_granularity,
            chunk_granularity=chunk_granularity,
        )


def _axis(largest: int, step: int) -> FloatArray:
    return np.arange(-(-largest // step) + 1, dtype=np.float64) * step


def coarse_chunks(granularity: int) -> str:
    return f"prefill chunks rounded up to {granularity} tokens (the table would be too large otherwise)"
