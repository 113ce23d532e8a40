"""The router's books: exact counts, constant time, and replicas that come and go."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from clusters import Cluster, request_table
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.vllm.decide.ledger import Ledger
from vidur.observation import (
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_E2E,
    COMPLETED_OUTPUT,
    COMPLETED_PROMPT,
    COMPLETED_TTFT,
    COMPLETIONS_KEPT,
    FINISHED,
    HISTOGRAM_COUNTS,
    HISTOGRAM_SUMS,
    ITL_EWMA,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_AGE,
    QUEUE_PROMPT,
    STREAMED_TOKENS,
    output_bin,
)


def test_a_request_through_its_life() -> None:
    ledger = Ledger(2, 1)
    ticket = ledger.place(1, 100, 1.0, 1.5)
    row = ledger.observe(2.0)[1]
    assert row[[OUTSTANDING, AWAITING, PROMPT_TOKENS, AWAITING_TOKENS]].tolist() == [1, 1, 100, 100]
    assert (row[QUEUE_AGE], row[QUEUE_PROMPT]) == (1.0, 100)
    ledger.stream(ticket, 1, 3.0)
    ledger.stream(ticket, 4, 3.4)
    row = ledger.observe(4.0)[1]
    assert row[[OUTSTANDING, AWAITING, AWAITING_TOKENS, STREAMED_TOKENS]].tolist() == [1, 0, 0, 5]
    assert row[ITL_EWMA] == pytest.approx(0.1) and row[QUEUE_AGE] == row[QUEUE_PROMPT] == 0
    served = ledger.finish(ticket, 4.0)
    assert (served.ttft, served.e2e, served.output_tokens) == (2.0, 3.0, 5)
    assert served.tpot == pytest.approx(0.25)
    row = ledger.observe(5.0)[1].copy()
    assert row[FINISHED] == 1
    row[[FINISHED, ITL_EWMA]] = 0
    assert not row.any() and not ledger.observe(5.0)[0].any()
    totals = ledger.completions
    found = totals[[COMPLETED_COUNT, COMPLETED_OUTPUT, COMPLETED_PROMPT, COMPLETED_E2E, COMPLETED_TTFT]]
    assert found.tolist() == [1, 5, 100, 3.0, 2.0]
    assert totals[HISTOGRAM_COUNTS + output_bin(5)] == 1 and totals[HISTOGRAM_SUMS + output_bin(5)] == 5
    with pytest.raises(KeyError):
        ledger.finish(ticket, 5.0)


def test_the_pace_is_an_average_over_iterations_however_many_stream() -> None:
    """n streams that each get a token every 20 ms, then every 40: after k iterations 1 - 0.98^k of the way."""
    for streams in (1, 8):
        ledger = Ledger(1)
        tickets = [ledger.place(0, 1, 0.0, 0.0) for _ in range(streams)]
        now = 0.0
        for iteration in range(151):
            now += 0.02 if iteration <= 50 else 0.04
            for ticket in tickets:
                ledger.stream(ticket, 1, now)
        expected = 0.04 - 0.02 * 0.98**100
        assert ledger.observe(now)[0, ITL_EWMA] == pytest.approx(expected, rel=2e-3)


def test_a_failed_request_leaves_no_completion() -> None:
    ledger = Ledger(1)
    first, second = ledger.place(0, 10, 0.0, 0.0), ledger.place(0, 20, 0.0, 0.0)
    ledger.stream(first, 1, 1.0)
    assert ledger.drop(first, 2.0).ttft == 1.0
    assert ledger.drop(second, 2.0).ttft is None
    assert not ledger.completions.any() and not ledger.observe(2.0).any()


def test_a_response_in_one_piece_counts_its_end_as_its_first_token() -> None:
    ledger = Ledger(1)
    served = ledger.finish(ledger.place(0, 10, 0.0, 0.0, streams=False), 3.0, 7)
    assert (served.output_tokens, served.ttft, served.tpot) == (7, None, None)
    assert ledger.completions[[COMPLETED_OUTPUT, COMPLETED_TTFT]].tolist() == [7, 3.0]


def test_the_replicas_queue_says_which_prompts_have_been_read() -> None:
    """Of five in order, the replica has two in its queue: the first three are not; the one that streams shows it by
    itself. One placed after the report is not in it."""
    ledger = Ledger(1, 4)
    for number in range(5):
        ledger.place(0, 1 << number, 0.0, float(number), streams=number == 1)
    ledger.place(0, 100, 0.0, 9.0, streams=False)
    ledger.settle(0, 2, 8.0)
    assert ledger.observe(9.0)[0, [AWAITING, AWAITING_TOKENS]].tolist() == [4, 2 + 8 + 16 + 100]
    assert ledger.observe(9.0)[0, QUEUE_PROMPT::2].tolist() == [2, 8, 16, 100]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99), st.integers(1, 50)), max_size=80), st.integers(0, 3))
def test_the_arrays_are_what_the_requests_add_up_to(steps: list[tuple[int, int, int]], depth: int) -> None:
    """Whatever happens in whatever order, with replicas that come and go."""
    ledger = Ledger(2, depth)
    live: list[int] = []
    for now, (action, which, amount) in enumerate(steps, 1):
        if action <= 1 and ledger.num_replicas:
            live.append(ledger.place(which % ledger.num_replicas, amount, now - 0.5, now))
        elif action == 2 and live:
            ledger.stream(live[which % len(live)], amount, now)
        elif action == 3 and live:
            ticket = live.pop(which % len(live))
            (ledger.finish if amount % 2 else ledger.drop)(ticket, now)
        elif action == 4:
            assert ledger.add_replica() == ledger.num_replicas - 1
        elif action == 5 and ledger.num_replicas:
            ledger.remove_replica(which % ledger.num_replicas)
    assert ledger.outstanding == len(live)
    rows = ledger.observe(100.0)
    assert rows.shape == (ledger.num_replicas, 8 + 2 * depth)
    for replica, row in enumerate(rows):
        placed = ledger.placed(replica)
        waits = ~placed.has_first_token
        expected = [
            len(waits), waits.sum(), placed.prompt_tokens.sum(), placed.prompt_tokens[waits].sum(),
            placed.streamed_tokens.sum(),
        ]  # fmt: skip
        assert row[[OUTSTANDING, AWAITING, PROMPT_TOKENS, AWAITING_TOKENS, STREAMED_TOKENS]].tolist() == expected
        assert (np.diff(placed.placed_at) >= 0).all()
        ages = [*(100.0 - placed.arrived_at[waits]), *[0.0] * depth][:depth]
        assert row[QUEUE_AGE::2].tolist() == ages
        assert row[QUEUE_PROMPT::2].tolist() == [*placed.prompt_tokens[waits], *[0] * depth][:depth]


def test_memory_is_flat_over_many_requests() -> None:
    ledger = Ledger(4, 4)

    def serve(count: int, outstanding: list[int]) -> None:
        for number in range(count):
            outstanding.append(ledger.place(number % 4, 100, number, number))
            ledger.stream(outstanding[-1], 1, number)
            if len(outstanding) > 50:
                ledger.finish(outstanding.pop(0), number)

    outstanding: list[int] = []
    serve(2000, outstanding)
    tracemalloc.start()
    serve(6000, outstanding)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 50_000


def test_old_completions_fade_as_in_the_simulator() -> None:
    """At COMPLETIONS_KEPT all is halved: what came before counts half of what comes after."""
    early, late = COMPLETIONS_KEPT, 3
    prompts = [8] * early + [1] * late
    simulation, _ = Cluster(replicas=1, router="round_robin", record_rows=False).run(
        request_table([0.01 * i for i in range(early + late)], prompts, [2] * early + [64] * late)
    )
    ledger = Ledger(1)
    for prompt, output in zip(prompts, [2] * early + [64] * late, strict=True):
        ledger.finish(ledger.place(0, prompt, 0.0, 0.0), 1.0, output)
    for found in (ledger.completions, simulation.engine.books.completions[0]):
        assert found[COMPLETED_COUNT] == early / 2 + late
        assert found[COMPLETED_PROMPT] == 8 * early / 2 + late
        assert found[COMPLETED_OUTPUT] == 2 * early / 2 + 64 * late
        assert found[HISTOGRAM_COUNTS + output_bin(2)] == early / 2 and found[HISTOGRAM_COUNTS + output_bin(64)] == late
