"""One simulation under way: it runs to the end with a compiled router, or from one routing decision to the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vidur.engine import layout as at
from vidur.engine.cluster import place, run
from vidur.engine.compile import COMPILED
from vidur.engine.routing import choose_callback
from vidur.engine.state import EngineState
from vidur.errors import InputError
from vidur.scheduler.global_scheduler.base import ChooseKernel
from vidur.scheduler.observation import ClusterObservation, PlacedRequests
from vidur.scheduler.replica_scheduler.policy import Policy, form_batch_callback

# Steps between two looks at the clock and at signals: some tens of milliseconds.
STEPS_A_SLICE = 200_000 if COMPILED else 2_000

_TABLES = {
    at.TOKEN_MISS: "a batch of {asked} tokens (held: {held}); raise the predictor's prediction_max_tokens_per_request",
    at.DECODE_MISS: "decode attention over {asked} KV tokens (held: {held}); raise prediction_max_tokens_per_request",
    at.PREFILL_KV_MISS: "a prefill over {asked} KV tokens (held: {held}); raise prediction_max_tokens_per_request",
    at.PREFILL_CHUNK_MISS: "a prefill chunk of {asked} tokens (held: {held}); raise prediction_max_prefill_chunk_size",
    at.BATCH_MISS: "a batch of {asked} requests (held: {held}); raise prediction_max_batch_size",
}


class Simulation:
    """Drives the engine. Raises InputError where a batch is beyond the execution-time tables."""

    def __init__(self, state: EngineState, policy: Policy) -> None:
        self.state = state
        self.done = False
        self.policy = policy
        self._policy = form_batch_callback.handle(policy.form_batch)

    def run(self, choose: ChooseKernel, on_slice: Callable[[int], None] | None = None) -> None:
        """Run to the end. `on_slice(finished requests)` is called now and then and may raise to stop."""
        self._advance(choose_callback.handle(choose), on_slice)

    def compile(self, choose: ChooseKernel) -> None:
        """Have `run` compiled, or loaded, before time is taken; a budget of no steps leaves the rest to `run`."""
        run(self._policy, choose_callback.handle(choose), 0, *self.state.run_arguments())

    def next_decision(self, on_slice: Callable[[int], None] | None = None) -> ClusterObservation | None:
        """Run up to the next request that is to be routed. None when the simulation has ended."""
        # Whoever decides out here may look at everything.
        self.state.cluster[at.OBSERVED] = 2
        return None if self._advance(0, on_slice) == at.DONE else self.observation()

    def place(self, replica: int) -> None:
        """Give the request of the last decision to `replica`."""
        if not (0 <= replica < len(self.state.available)) or not self.state.available[replica]:
            raise InputError(
                f"the global scheduler chose replica {replica}, which is not available; it must choose one"
            )
        place(int(self.state.cluster[at.CURRENT]), replica, *self.state.place_arguments())

    @property
    def num_finished(self) -> int:
        return int(self.state.cluster[at.NUM_FINISHED])

    @property
    def router(self) -> int:
        """At which of the routers the request of the last decision came in."""
        return int(self.state.requests[self.state.cluster[at.CURRENT], at.ROUTER])

    def observation(self) -> ClusterObservation:
        state = self.state
        return ClusterObservation(
            now=float(state.cluster_floats[at.NOW]),
            ledger=state.observed,
            gauges=state.gauges,
            hardware=state.hardware,
            available=state.available.astype(np.bool_),
            arrival=state.arrival,
            completions=state.completions[self.router],
            placed=self._placed,
        )

    def _placed(self, replica: int) -> PlacedRequests:
        state = self.state
        ids = []
        request = int(state.replicas[replica, at.LEDGER_HEAD])
        while request >= 0:
            ids.append(request)
            request = int(state.requests[request, at.LEDGER_NEXT])
        chosen = np.array(ids, np.int64)
        chosen = chosen[state.requests[chosen, at.ROUTER] == self.router]
        streamed = state.requests[chosen, at.STREAMED]
        if state.replicas[replica, at.IN_FLIGHT] == 1 and state.replicas[replica, at.RUN_COUNT] > 1:
            start, seconds = state.replica_floats[replica, [at.RUN_START, at.RUN_TIME]]
            ends = start + seconds * np.arange(1, state.replicas[replica, at.RUN_COUNT] + 1)
            size = state.batches[replica, 0, at.SIZE]
            running = np.isin(chosen, state.batch_requests[replica, 0, :size])
            streamed = streamed + running * int((ends < state.cluster_floats[at.NOW]).sum())
        return PlacedRequests(
            request=chosen,
            arrived_at=state.times[chosen, at.ARRIVED],
            placed_at=state.times[chosen, at.PLACED],
            prompt_tokens=state.requests[chosen, at.PROMPT],
            streamed_tokens=streamed,
            has_first_token=~np.isnan(state.times[chosen, at.FIRST_TOKEN]),
        )

    def _advance(self, router: int, on_slice: Callable[[int], None] | None) -> int:
        state = self.state
        while True:
            status = int(run(self._policy, router, STEPS_A_SLICE, *state.run_arguments()))
            if status == at.ROWS_FULL:
                state.grow_rows()
            elif status == at.TABLE_MISS:
                raise self._table_miss()
            elif status == at.YIELD:
                if on_slice is not None:
                    on_slice(self.num_finished)
            else:
                self.done = status == at.DONE
                return status

    def _table_miss(self) -> InputError:
        cluster = self.state.cluster
        text = _TABLES[int(cluster[at.ERROR])].format(asked=cluster[at.ERROR_ASKED], held=cluster[at.ERROR_HELD])
        return InputError(f"the execution-time tables of replica {cluster[at.ERROR_REPLICA]} end before {text}")
