"""The raw arrays that one simulation records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Columns: TypeAlias = dict[str, NDArray[Any]]

UNFINISHED, FINISHED, REFUSED = 0, 1, 2
"""The values of `Recording.requests["status"]`."""


@dataclass
class Recording:
    """Everything the engine recorded, column by column. Times are seconds on the simulated clock, which starts at 0.

    requests: arrays of length N, index = request id: in order of arrival, but requests that follow others arrive when
        those have ended, so their arrivals need not ascend.
        arrived_at, scheduled_at (first batch), prefill_completed_at (first token), completed_at: float64; nan = never.
        num_prefill_tokens, num_decode_tokens: as they arrived; restarts do not change them.
        replica: the last one the request was placed on; -1 = never placed.
        execution_time: time spent inside batch stages; preempted_time: time between them.
        num_restarts: after a preemption by recomputation; num_reroutes: after a failed replica.
        status: int8, one of UNFINISHED, FINISHED, REFUSED.
        cpu_time: the CPU overhead within execution_time; absent if there is none.
        num_cached_tokens: prompt tokens found in the replica's prefix cache when first scheduled; num_believed_tokens:
        those that the router expected there. Absent without prefix caching; the latter also without an index.

    batches: arrays of length M. A row is `count` successive iterations of one stage of a replica, with the same
        requests and the same time: it covers [start, start + count * iteration_time). With one pipeline stage a row is
        a run of whole batches; with several, each (batch, stage) has a row of count 1. Rows of a stage never overlap.
        replica, stage, batch_id (of the first iteration; the others follow it), scheduled_at, start, iteration_time,
        count, batch_size, num_tokens, num_prefill_tokens.
        decode_size: requests in decode; decode_kv_tokens: the sum of their KV lengths at the first iteration.
        prefill_kv_tokens: the sum of the prefills' KV lengths, each rounded up to the granularity of the tables;
        prefill_chunk: the root of the summed squares of the prefill chunks.
        kv_blocks: allocated at the start; num_waiting, num_running: requests of the replica at the start.

    replicas: arrays of length R. num_blocks (KV-cache capacity), busy_time_stage{i} (seconds, i = 0, 1, ...),
        num_requests (placed there), num_preemptions, group (index into the cluster's groups).
        num_batches: optional; for a recording without batch rows.
        attention_token_pairs: the sum over batches and their requests of query tokens * KV tokens.
        query_tokens, hit_tokens: prompt tokens of admitted requests and those found cached; evicted_blocks: blocks that
        lost their content; evicted_age: seconds since their last use, summed. prefill_token_seconds,
        prefill_pair_seconds: the cost of a prefill (vidur.observation). Absent without prefix caching.

    members: (offsets int64[K+1], request_ids int32[offsets[K]]) for the first K rows of batches, or None.
    member_tokens: int32[offsets[K]], the tokens of each member in one iteration, or None where it was not recorded.
    end_time: time of the last event.
    partial: the run was stopped before all requests ended.
    routing_decisions: number of calls of a router.
    """

    requests: Columns
    batches: Columns
    replicas: Columns
    end_time: float
    partial: bool
    routing_decisions: int
    members: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None
    member_tokens: NDArray[np.int32] | None = None
