"""Random operations on one replica with prefix caching, step by step: requests that arrive and are aborted, and steps
of the scheduler. The engine and vLLM's own scheduler (tests/vllm_scheduler.py) replay the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from clusters import HARDWARE
from numpy.typing import NDArray

from vidur.engine.cluster import place_request
from vidur.engine.compile import allocating_kernel
from vidur.engine.engine import Engine
from vidur.engine.iteration import end_batch, measure_batch
from vidur.engine.ledger import count_dropped
from vidur.engine.plan import EngineOptions, ReplicaPlan
from vidur.engine.plug import BATCHERS, form_batch_callback
from vidur.engine.queues import release
from vidur.engine.recording import REFUSED, UNFINISHED
from vidur.engine.state import State, open_state
from vidur.request_generator import RequestTable
from vidur.request_generator.content import Content

ARRIVE, STEP, ABORT = range(3)
SECTION = -9
PRIVATE = 1 << 40
"""Tokens from this id on belong to one request only, and are no part of the content that the engine knows."""

Ints = NDArray[np.int64]
form_batch = form_batch_callback.call


@dataclass
class Case:
    """A replica, requests with the ids of all their tokens, and operations (kind, request)."""

    num_blocks: int
    block_size: int
    max_batch: int
    token_limit: int
    prefill_threshold: int = 0
    caching: bool = True
    prompts: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    operations: list[tuple[int, int]] = field(default_factory=list)

    @property
    def most_tokens(self) -> int:
        return self.num_blocks * self.block_size + 1

    def add_request(self, rng: np.random.Generator) -> None:
        """Add a request that shares a prefix with an earlier one, or with none; the end of it may be private."""
        number = len(self.tokens)
        total = int(rng.integers(2, min(self.most_tokens, 40 * self.block_size)))
        shared: list[int] = []
        if number and rng.random() < 0.85:
            other = self.tokens[int(rng.integers(max(0, number - 12), number))]
            cut = len(other) if rng.random() < 0.4 else int(rng.integers(0, len(other) + 1))
            if rng.random() < 0.5:
                cut -= cut % self.block_size
            shared = [token for token in other[:cut] if token < PRIVATE]
            if rng.random() < 0.7:
                total = min(self.most_tokens, max(2, len(shared) + int(rng.integers(0, 6 * self.block_size))))
        shared = shared[:total]
        first = (number + 1) << 16
        if rng.random() < 0.3:
            first += PRIVATE
        tokens = [*shared, *range(first, first + total - len(shared))]
        if rng.random() < 0.2 and total > 3:
            cut = int(rng.integers(1, total))
            tokens[cut:] = range(
                first % PRIVATE + PRIVATE + (1 << 15), first % PRIVATE + PRIVATE + (1 << 15) + total - cut
            )
        output = int(rng.integers(1, max(2, min(total, 8 * self.block_size))))
        self.prompts.append(total - output)
        self.outputs.append(output)
        self.tokens.append(tokens)

    def table(self) -> RequestTable:
        offsets, first, lengths = [0], [], []
        for tokens in self.tokens:
            known = [token for token in tokens if token < PRIVATE]
            assert known == tokens[: len(known)]
            starts = [i for i in range(len(known)) if i == 0 or known[i] != known[i - 1] + 1]
            first += [known[i] for i in starts]
            lengths += list(np.diff([*starts, len(known)])) if starts else []
            offsets.append(len(first))
        content = Content(*(np.array(part, np.int64) for part in (offsets, first, lengths)))
        columns = np.zeros(len(self.prompts)), np.array(self.prompts), np.array(self.outputs)
        return RequestTable.of(*columns, "a test", content=content)

    def engine(self) -> Engine:
        plan = ReplicaPlan(
            hardware=0, num_blocks=self.num_blocks, block_size=self.block_size, max_batch=self.max_batch,
            max_admitted=self.max_batch, token_limit=self.token_limit, max_request_tokens=self.most_tokens,
            prefill_threshold=self.prefill_threshold, caching=self.caching,
        )  # fmt: skip
        options = EngineOptions(record_rows=False)
        return Engine(self.table(), [plan], [HARDWARE], np.zeros((0, 4)), options)

    def replay(self) -> Ints:
        """Return what the engine does, in the layout of `vllm_scheduler.Replay`."""
        engine = self.engine()
        trace = np.zeros(
            len(self.operations) * (self.num_blocks + 8 * self.max_batch + len(self.prompts) + 16), np.int64
        )
        handle = form_batch_callback.handle(BATCHERS.get("vllm_v1").form_batch)
        used = replay(engine.address, handle, np.array(self.operations, np.int64), trace)
        return trace[:used]


def random_case(seed: int, operations: int) -> Case:
    """A case with so few blocks that content is evicted and requests are preempted."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([1, 2, 4, 16]))
    max_batch = int(rng.integers(1, 9))
    case = Case(
        num_blocks=int(rng.integers(6, 60)), block_size=size, max_batch=max_batch,
        token_limit=max_batch + int(rng.integers(1, 24 * size)),
    )  # fmt: skip
    load = rng.uniform(0.05, 0.4)
    for _ in range(operations):
        draw = rng.random()
        if draw < load or not case.prompts:
            case.operations.append((ARRIVE, len(case.prompts)))
            case.add_request(rng)
        elif draw > 0.97:
            case.operations.append((ABORT, int(rng.integers(max(0, len(case.prompts) - 8), len(case.prompts)))))
        else:
            case.operations.append((STEP, 0))
    return case


@allocating_kernel
def replay(address: int, batcher: int, operations: Ints, trace: Ints) -> int:
    """Replay operations on replica 0. Returns how much of `trace` is used."""
    s = open_state(address)
    used = 0
    for i in range(len(operations)):
        kind, request = operations[i, 0], operations[i, 1]
        s.clock[0].now = s.next_time[0] = float(i)
        if kind == ARRIVE:
            place_request(s, request, 0)
            continue
        if kind == STEP:
            used = step(s, batcher, float(i), trace, used)
        elif not np.isnan(s.requests[request].placed_at) and s.requests[request].status == UNFINISHED:
            abort(s, request)
        used = write_state(s, trace, used)
    return used


@allocating_kernel
def write(trace: Ints, used: int, number: int) -> int:
    trace[used] = number
    return used + 1


@allocating_kernel
def step(s: State, batcher: int, now: float, trace: Ints, used: int) -> int:
    before = s.replicas[0].preemptions
    size, _ = form_batch(batcher, (0, now, 0, s))
    for i in range(size):
        member = s.members[0, 0, i]
        request = s.requests[member.request]
        used = write(trace, used, member.request)
        used = write(trace, used, request.processed - request.prefilled)
        used = write(trace, used, member.tokens)
    used = write(trace, used, SECTION)
    used = write(trace, used, s.replicas[0].preemptions - before)
    used = write(trace, used, SECTION)
    measure_batch(s, 0, now, 0, size)
    s.batches[0, 0].began_at = now
    end_batch(s, 0, 0, 1, now)
    return used


@allocating_kernel
def abort(s: State, request: int) -> None:
    """Drop a request, whether it waits or runs."""
    row = s.replicas[0]
    for i in range(row.ready):
        if s.ready[0, i] == request:
            for j in range(i, row.ready - 1):
                s.ready[0, j] = s.ready[0, j + 1]
            row.ready -= 1
            release(s, 0, request)
            break
    else:
        before, waiting = -1, row.wait_head
        while waiting != request:
            before, waiting = waiting, s.requests[waiting].wait_next
        after = s.requests[request].wait_next
        if before < 0:
            row.wait_head = after
        else:
            s.requests[before].wait_next = after
        if after < 0:
            row.wait_tail = before
        row.waiting -= 1
    count_dropped(s, 0, request)
    s.requests[request].status = REFUSED


@allocating_kernel
def write_state(s: State, trace: Ints, used: int) -> int:
    row, pool = s.replicas[0], s.cache.pools[0]
    waiting = row.wait_head
    while waiting >= 0:
        used = write(trace, used, waiting)
        waiting = s.requests[waiting].wait_next
    used = write(trace, used, SECTION)
    for i in range(row.ready):
        used = write(trace, used, s.ready[0, i])
    used = write(trace, used, SECTION)
    block = pool.head
    while block >= 0:
        used = write(trace, used, max(-2, s.cache.blocks[0, block].key))
        block = s.cache.blocks[0, block].after
    uses = 0
    for block in range(pool.capacity):
        uses += s.cache.blocks[0, block].ref
    used = write(trace, used, SECTION)
    used = write(trace, used, uses)
    return write(trace, used, SECTION)
