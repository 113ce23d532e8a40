"""Drive the engine to the end with a compiled router, or from one routing decision to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from vidur.engine.cluster import DONE, ROWS_FULL, TABLE_MISS, YIELD, place, run
from vidur.engine.compile import COMPILED, compiled_beside
from vidur.engine.engine import Engine, plain
from vidur.engine.iteration import BATCH_MISS, DECODE_MISS, PREFILL_CHUNK_MISS, PREFILL_KV_MISS, TOKEN_MISS
from vidur.engine.plug import Batcher, ChooseKernel, choose_callback, form_batch_callback
from vidur.errors import InputError
from vidur.observation import ClusterObservation, PlacedRequests

# Steps between checks for signals and progress: some tens of milliseconds.
STEPS_A_SLICE = 200_000 if COMPILED else 2_000

_TABLES = {
    TOKEN_MISS: "a batch of {asked} tokens (at most {most}); raise the predictor's prediction_max_tokens_per_request",
    DECODE_MISS: "decode attention over {asked} KV tokens (at most {most}); raise prediction_max_tokens_per_request",
    PREFILL_KV_MISS: "a prefill over {asked} KV tokens (at most {most}); raise prediction_max_tokens_per_request",
    PREFILL_CHUNK_MISS: "a prefill chunk of {asked} tokens (at most {most}); raise prediction_max_prefill_chunk_size",
    BATCH_MISS: "a batch of {asked} requests (at most {most}); raise prediction_max_batch_size",
}


class Simulation:
    """Drives the engine. Raises InputError if a batch exceeds the execution-time tables."""

    def __init__(self, engine: Engine, batcher: Batcher) -> None:
        self.engine = engine
        self.done = False
        self.batcher = batcher
        self._batcher = form_batch_callback.handle(batcher.form_batch)
        self._requests = plain(engine.requests)
        self._replicas = plain(engine.state.replicas)
        self._routers = self._requests["router"]
        self._prefixes = plain(engine.state.prefixes)

    def run(self, choose: ChooseKernel, on_slice: Callable[[int], None] | None = None) -> None:
        """Run to the end. `on_slice(finished requests)` is called every STEPS_A_SLICE steps; it may raise to stop."""
        self._advance(choose_callback.handle(choose), on_slice)

    def compile(self, choose: ChooseKernel) -> None:
        """Compile or load `run` without simulating (a budget of 0 steps), so that timing can start afterwards."""
        statement = "from vidur.engine.plug import choose_callback; choose_callback.handle(function)"
        with compiled_beside(statement, choose):
            if COMPILED:
                run.compile((types.int64,) * 4)  # type: ignore[attr-defined]
        run(self._batcher, choose_callback.handle(choose), 0, self.engine.address)

    def next_decision(self, on_slice: Callable[[int], None] | None = None) -> ClusterObservation | None:
        """Run to the next routing decision. Returns None when the simulation has ended."""
        # A router that runs in Python may read any column, so publish all of them.
        self.engine.clock.observed = 2
        return None if self._advance(0, on_slice) == DONE else self.observation()

    def place(self, replica: int) -> None:
        """Place the request of the last decision on `replica`. Raises InputError if it is not available."""
        available = self.engine.state.books.available
        if not (0 <= replica < len(available)) or not available[replica]:
            raise InputError(
                f"the global scheduler chose replica {replica}, which is not available; it must choose one"
            )
        place(int(self.engine.clock.current), replica, self.engine.address)

    @property
    def num_finished(self) -> int:
        return int(self.engine.clock.num_finished)

    @property
    def router(self) -> int:
        """The number of the router that received the request of the last decision."""
        return int(self._routers[self.engine.clock.current])

    def observation(self) -> ClusterObservation:
        books = self.engine.state.books
        return ClusterObservation(
            now=float(self.engine.clock.now),
            ledger=books.observed,
            gauges=books.gauges,
            hardware=books.hardware,
            available=books.available.astype(np.bool_),
            arrival=books.arrival,
            completions=books.completions[self.router],
            placed=self._placed,
            prefix=books.prefix[self.router],
        )

    def _placed(self, replica: int) -> PlacedRequests:
        state, requests, following = self.engine.state, self._requests, self._requests["ledger_next"]
        row, ids = self._replicas[replica], []
        request = int(row["ledger_head"])
        while request >= 0:
            ids.append(request)
            request = int(following[request])
        chosen = np.array(ids, np.int64)
        chosen = chosen[self._routers[chosen] == self.router]
        streamed = requests["streamed"][chosen]
        if row["in_flight"] == 1 and row["run_count"] > 1:
            members: Any = state.members[replica, 0]
            running = np.isin(chosen, members["request"][: state.batches[replica, 0].num_requests])
            ends = row["run_start"] + row["run_time"] * np.arange(1, row["run_count"] + 1)
            streamed = streamed + running * int((ends < self.engine.clock.now).sum())
        return PlacedRequests(
            request=chosen,
            arrived_at=requests["arrived_at"][chosen],
            placed_at=requests["placed_at"][chosen],
            prompt_tokens=requests["prompt"][chosen],
            matched_tokens=self._prefixes["matched"][chosen] if len(self._prefixes) else None,
            streamed_tokens=streamed,
            has_first_token=~np.isnan(requests["first_token_at"][chosen]),
        )

    def _advance(self, router: int, on_slice: Callable[[int], None] | None) -> int:
        while True:
            status = int(run(self._batcher, router, STEPS_A_SLICE, self.engine.address))
            if status == ROWS_FULL:
                self.engine.grow_rows()
            elif status == TABLE_MISS:
                raise self._table_miss()
            elif status == YIELD:
                if on_slice is not None:
                    on_slice(self.num_finished)
            else:
                self.done = status == DONE
                return status

    def _table_miss(self) -> InputError:
        clock = self.engine.clock
        text = _TABLES[int(clock.error)].format(asked=clock.error_asked, most=clock.error_largest)
        return InputError(f"the execution-time tables of replica {clock.error_replica} end before {text}")
