"""The engine's state: records that compiled code reaches by one address, heaps, the waiting queue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from clusters import HARDWARE, Cluster, request_table
from hypothesis import given
from hypothesis import strategies as st

from vidur.engine.compile import COMPILED, allocating_kernel
from vidur.engine.engine import Engine
from vidur.engine.foresight import requests_on, restore_replica, save_replica
from vidur.engine.plan import EngineOptions
from vidur.engine.queues import FCFS, PRIORITY, admit, enqueue, preempt
from vidur.engine.reference import describe
from vidur.engine.state import Row, Timer, open_state, record_dtype, records
from vidur.engine.timers import pop, push


def an_engine(requests: int = 8, **options: Any) -> Engine:
    table = request_table([0.1 * i for i in range(requests)], [10 + i for i in range(requests)], [3] * requests)
    return Engine(table, Cluster(stages=2).plans(), [HARDWARE], np.zeros((0, 4)), EngineOptions(**options))


@allocating_kernel
def read_back(address: int) -> tuple[int, float, int, int, float, int]:
    s = open_state(address)
    s.requests[3].streamed += 7
    s.members[1, 1, 2].tokens = 11
    s.books.ledger[1, 2] = 2.5
    prompts = 0
    for i in range(len(s.requests)):
        prompts += s.requests[i].prompt
    seconds = s.tables.seconds[s.tables.hardware[0].token_table + 5]
    return prompts, s.requests[4].arrived_at, len(s.stages), s.members.shape[2], seconds, s.log.rows[9].batch_size


def test_kernels_read_and_write_the_arrays_that_python_holds() -> None:
    engine = an_engine()
    state: Any = engine.state
    state.log.rows[9].batch_size = 6
    prompts, arrived_at, replicas, capacity, seconds, size = read_back(engine.address)
    assert prompts == sum(10 + i for i in range(8)) and arrived_at == engine.requests[4].arrived_at
    assert (replicas, capacity, size) == (2, state.members.shape[2], 6)
    assert seconds == HARDWARE.token_seconds()[5]
    assert engine.requests["streamed"].tolist() == [0, 0, 0, 7, 0, 0, 0, 0]
    assert state.members[1, 1, 2].tokens == 11 and state.books.ledger[1, 2] == 2.5


def test_grown_rows_keep_what_was_recorded_and_kernels_see_them() -> None:
    engine = an_engine()
    rows: Any = engine.state.log.rows
    rows[9].batch_size, engine.clock.num_rows = 6, 10
    engine.grow_rows()
    assert len(engine.state.log.rows) == 2 * len(rows)
    assert read_back(engine.address)[-1] == 6


@allocating_kernel
def read_a_field_that_is_not_there(address: int) -> int:
    return open_state(address).requests[0].prompt_tokens  # type: ignore[attr-defined, no-any-return]


@allocating_kernel
def read_an_array_that_is_not_there(address: int) -> int:
    return len(open_state(address).replica_floats)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernel", [read_a_field_that_is_not_there, read_an_array_that_is_not_there])
def test_a_wrong_field_is_an_error(kernel: Any) -> None:
    with pytest.raises(Exception, match=r"prompt_tokens|replica_floats"):
        kernel(an_engine().address)


@pytest.mark.skipif(not COMPILED, reason="arrays have addresses in compiled code only")
def test_an_array_that_is_not_contiguous_is_not_described() -> None:
    state = an_engine().state
    with pytest.raises(AssertionError, match="contiguous"):
        describe(state._replace(next_time=np.zeros(8)[::2]))


def test_fields_do_not_hide_behind_names_of_numpy() -> None:
    class Bad:
        size: int

    with pytest.raises(AssertionError, match="hide"):
        record_dtype(Bad)
    assert record_dtype(Row).itemsize % 8 == 0


@allocating_kernel
def push_from_python(heap: Any, count: int, time: float, kind: int, number: int, subject: int) -> None:
    push(heap, count, time, kind, number, subject)


@allocating_kernel
def pop_from_python(heap: Any, count: int) -> None:
    pop(heap, count)


@pytest.mark.skipif(not COMPILED, reason="plain functions can be called")
def test_an_inner_kernel_refuses_python() -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match="pop is called from other kernels only"):
            pop(records(Timer, 3), 1)
        pop_from_python(records(Timer, 3), 1)


entries = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 1.5, 7.0]), st.integers(0, 1)), max_size=40)


@given(entries, st.lists(st.booleans(), max_size=40))
def test_a_heap_gives_the_earliest_first_then_the_lowest_kind_then_the_first_that_came(
    added: list[tuple[float, int]], popped: list[bool]
) -> None:
    heap: Any = records(Timer, 41)
    expected: list[tuple[float, int, int]] = []
    count = 0

    def take() -> None:
        nonlocal count
        first = heap[0]
        assert (first.time, first.kind, first.number) == expected.pop(expected.index(min(expected)))
        assert first.subject == 100 + first.number
        pop_from_python(heap, count)
        count -= 1

    for number, (time, kind) in enumerate(added):
        push_from_python(heap, count, time, kind, number, 100 + number)
        count += 1
        expected.append((time, kind, number))
        if number < len(popped) and popped[number]:
            take()
    while count:
        take()
    assert expected == []


@allocating_kernel
def enqueue_at(address: int, request: int) -> bool:
    return enqueue(open_state(address), 0, request)


@allocating_kernel
def admit_at(address: int, request: int, blocks: int, keep_free: int) -> bool:
    return admit(open_state(address), 0, request, blocks, keep_free)


@allocating_kernel
def preempt_at(address: int, request: int) -> None:
    preempt(open_state(address), 0, request)


def waiting(engine: Engine) -> list[int]:
    row = engine.state.replicas[0]
    numbers, request = [], int(row.wait_head)
    while request >= 0:
        numbers.append(request)
        request = int(engine.state.requests[request].wait_next)
    assert len(numbers) == row.waiting and (row.wait_tail == numbers[-1] if numbers else row.wait_tail == -1)
    return numbers


@given(
    st.permutations(range(8)), st.lists(st.integers(0, 3), min_size=8, max_size=8), st.sampled_from([FCFS, PRIORITY])
)
def test_a_waiting_queue_is_in_its_order(arrivals: list[int], priorities: list[int], order: int) -> None:
    engine = an_engine()
    engine.requests["priority"] = priorities
    engine.state.replicas[0].order = order
    queue: list[int] = []
    for request in arrivals:
        is_first = enqueue_at(engine.address, request)
        queue.append(request)
        if order == PRIORITY:
            queue.sort(key=lambda number: (priorities[number], engine.requests[number].arrived_at))
        assert waiting(engine) == queue
        assert bool(is_first) == (queue[0] == request)


def test_admission_takes_the_first_that_waits_or_changes_nothing() -> None:
    engine = an_engine()
    row = engine.state.replicas[0]
    for request in (2, 5):
        enqueue_at(engine.address, request)
    assert not admit_at(engine.address, 2, int(row.num_blocks) + 1, 0)
    assert waiting(engine) == [2, 5] and row.allocated == row.admitted == 0
    # An empty replica keeps nothing free, a busy one does.
    assert admit_at(engine.address, 2, 60, 10)
    assert not admit_at(engine.address, 5, 4, 10)
    assert admit_at(engine.address, 5, 4, 0)
    assert waiting(engine) == [] and (row.admitted, row.allocated) == (2, 64)
    preempt_at(engine.address, 2)
    preempt_at(engine.address, 5)
    assert waiting(engine) == [5, 2] and (row.admitted, row.allocated, row.preemptions) == (0, 0, 2)


@allocating_kernel
def scramble_and_restore(address: int) -> None:
    """Change all that running a replica changes, and put it back."""
    s = open_state(address)
    saved = save_replica(s, 1, requests_on(s, 1, 3))
    s.requests[3].processed = 99
    s.requests[3].completed_at = 9.0
    s.replicas[1].allocated = 9
    s.next_time[1] = 0.5
    s.ready[1, 0] = 4
    s.members[1, 1, 0].request = 4
    s.batches[1, 1].tokens = 4
    s.stages[1, 1].busy_time = 4.0
    s.stage_queue[1, 1, 0] = 1
    s.clock[0].next_batch = 4
    s.books.ledger[1, 0] = 4.0
    s.books.completions[0, 0] = 4.0
    s.books.routed[0] = 4
    restore_replica(s, 1, saved)


def test_a_replica_is_restored_to_the_bit() -> None:
    engine = an_engine()
    before = engine.snapshot()
    scramble_and_restore(engine.address)
    for name, array in engine.snapshot().items():
        assert array.tobytes() == before[name].tobytes(), name


def test_a_snapshot_holds_all_that_changes() -> None:
    """Run to the end and back, through a failure: the same run again."""
    cluster = Cluster(replicas=2, stages=2, gauge_interval=0.05, record_rows=False, router="lor",
                      events=((0.2, 1, 1, 1.0), (0.3, 1, 2, 1.0)))  # fmt: skip
    requests = request_table([0.01 * i for i in range(40)], [20 + i for i in range(40)], [5 + i % 7 for i in range(40)])
    simulation = cluster.simulation(requests)
    begin = simulation.engine.snapshot()
    ends = []
    for _ in range(2):
        choice = 0
        while (observation := simulation.next_decision()) is not None:
            available = np.flatnonzero(observation.available)
            simulation.place(int(available[choice % len(available)]))
            choice += 1
        ends.append(simulation.engine.requests["completed_at"].copy())
        simulation.engine.restore(begin)
    assert np.isfinite(ends[0]).all() and np.array_equal(ends[0], ends[1])
