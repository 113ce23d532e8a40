"""The prefix cache of vllm_v1: against a plain model of vLLM's, and its properties in whole simulations."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import DRAIN, FAIL, RETURN, Cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cache import Reference
from scheduling import Ints, random_case
from test_foresight import copies, cost_parts, foresee_now

from vidur import observation as seen
from vidur.engine.compile import kernel
from vidur.engine.engine import Engine, plain
from vidur.engine.index import CORRECTED, EVENTS, ORACLE, OWN
from vidur.engine.plan import IndexPlan
from vidur.engine.plug import BATCHERS
from vidur.engine.pool import NO_KEY, PRIVATE_KEY
from vidur.engine.recording import FINISHED, REFUSED, Recording
from vidur.engine.simulation import Simulation
from vidur.engine.state import State
from vidur.prefix_index import IndexOptions, PrefixIndex
from vidur.request_generator import RequestTable
from vidur.request_generator.content import ID_GAP, Content, Turns
from vidur.scheduler.routers import GLOBAL_SCHEDULERS

AMPLE, STARVED = 400, 40
CACHING = Cluster(policy="vllm_v1", replicas=2, num_blocks=STARVED, caching=True, record_rows=False)
seeds = st.integers(0, 2**32 - 1)


def conversations(
    seed: int, sessions: int = 8, turns: int = 4, gap: float = 0.01, closed: bool = True, branches: bool = False,
    private: bool = False,
) -> RequestTable:  # fmt: skip
    """Conversations behind two system prompts; each turn's prompt begins with all before it, answers included.

    Of `branches`, some turns follow the turn before the last one, and the next follows both. With `private`, the
    content of some answers and of parts of their questions is not known.
    """
    rng = np.random.default_rng(seed)
    systems = [(rng.integers(8, 80)) for _ in range(2)]
    arrivals, prompts, outputs, thinks, session = [], [], [], [], []
    runs: list[list[tuple[int, int]]] = []
    edges: list[tuple[int, int]] = []
    for number in range(sessions):
        system = int(rng.integers(2))
        base, start = (2 + number) * ID_GAP * 64, rng.exponential(gap) * number
        history: list[list[tuple[int, int]]] = [[(system * ID_GAP, int(systems[system]))]]
        for turn in range(turns):
            branch = branches and turn >= 2 and rng.random() < 0.5
            before = history[-2 if branch else -1]
            question, output = int(rng.integers(1, 60)), int(rng.integers(1, 40))
            chain = [*before, (base + turn * ID_GAP, question + output)]
            total = sum(length for _, length in chain)
            if total > 400:
                break
            request = len(prompts)
            if turn:
                for parent in {request - 1, request - 2} if branch else {request - 1}:
                    edges.append((parent, request))
            arrivals.append(start + 0.5 * turn)
            prompts.append(total - output)
            outputs.append(output)
            thinks.append(float(rng.choice([0.0, 0.01, 0.3])) if turn else 0.0)
            session.append(number)
            history.append(chain)
            if private and rng.random() < 0.4:
                chain = [*before, (base + turn * ID_GAP, int(rng.integers(1, question + 1)))]
            runs.append(chain)
    content = Content(
        np.cumsum([0, *map(len, runs)]),
        np.array([first for chain in runs for first, _ in chain], np.int64),
        np.array([length for chain in runs for _, length in chain], np.int64),
    )
    parents, children = np.array(edges, np.int64).reshape(-1, 2).T
    return RequestTable.of(
        np.array(arrivals), np.array(prompts), np.array(outputs), "a test", session_id=np.array(session),
        content=content, turns=Turns.of_edges(parents, children, np.array(thinks)) if closed else None,
    )  # fmt: skip


def first(requests: RequestTable, count: int) -> RequestTable:
    """The first requests of a table without turns."""
    names = "arrived_at", "num_prefill_tokens", "num_decode_tokens", "session_id", "priority"
    columns = {name: getattr(requests, name)[:count] for name in names}
    assert requests.content is not None
    return replace(requests, **columns, content=requests.content.take(np.arange(count)))


def check_pools(engine: Engine) -> None:
    """Every block is free or used and found by its key, uses add up, and chains are present from their start."""
    cache, rows = engine.state.cache, plain(engine.state.replicas)
    blocks_held, table = plain(engine.requests)["blocks"], plain(engine.state.prefixes)["table"]
    on = plain(engine.requests)["replica"]
    for replica, pool in enumerate(plain(cache.pools)):
        capacity = int(pool["capacity"])
        blocks = {name: column[:capacity].tolist() for name, column in columns(cache.blocks[replica]).items()}
        uses = np.zeros(capacity, np.int64)
        for request in np.flatnonzero((blocks_held > 0) & (on == replica)):
            np.add.at(uses, cache.tables[replica, table[request], : blocks_held[request]], 1)
        assert blocks["ref"] == uses.tolist()
        queue, before, block = [], -1, int(pool["head"])
        while block >= 0:
            assert blocks["before"][block] == before
            queue.append(block)
            before, block = block, blocks["after"][block]
        assert pool["tail"] == before and pool["free"] == len(queue)
        assert sorted(queue) == np.flatnonzero(uses == 0).tolist()
        assert rows["allocated"][replica] == capacity - pool["free"]
        assert pool["rows"] == cache.free_tables.shape[1] - rows["admitted"][replica]
        without_key = [i for i, block in enumerate(queue) if blocks["key"][block] == NO_KEY]
        assert without_key == list(range(len(without_key)))
        rings: dict[int, list[int]] = {}
        for first in cache.slots[replica][cache.slots[replica] >= 0].tolist():
            ring, twin = [first], blocks["twin_after"][first]
            while twin != first:
                assert blocks["twin_before"][twin] == ring[-1]
                ring.append(twin)
                twin = blocks["twin_after"][twin]
            key = blocks["key"][first]
            assert {blocks["key"][member] for member in ring} == {key} and key not in rings
            assert blocks["twin_before"][first] == ring[-1]
            rings[key] = ring
        keyed = [block for block, key in enumerate(blocks["key"]) if key not in (NO_KEY, PRIVATE_KEY)]
        assert sorted(block for ring in rings.values() for block in ring) == keyed
        for request in range(len(engine.requests)):
            present = np.isin(chain(engine, request), list(rings))
            assert not (present[1:] & ~present[:-1]).any()


def columns(records: Any) -> dict[str, Any]:
    table = plain(records)
    return {name: table[name] for name in table.dtype.names or ()}


def chain(engine: Engine, request: int) -> Ints:
    chains = engine.state.chains
    runs = slice(int(chains.offsets[request]), int(chains.offsets[request + 1]))
    starts = np.concatenate([[0], chains.ends[runs]])
    return np.concatenate(
        [np.zeros(0, np.int64)]
        + [key + np.arange(count) for key, count in zip(chains.keys[runs], np.diff(starts), strict=True)]
    )


def all_free(engine: Engine) -> None:
    check_pools(engine)
    for replica, pool in enumerate(engine.state.cache.pools):
        assert pool.free == pool.capacity and engine.state.replicas[replica].allocated == 0


def digest(recording: Recording) -> str:
    hashed = hashlib.sha256()
    for columns in (recording.requests, recording.batches, recording.replicas):
        for name in sorted(columns):
            hashed.update(name.encode() + columns[name].tobytes())
    return hashed.hexdigest()


# -- one replica, step by step ----------------------------------------------------------------------------------------


@given(seeds)
@settings(max_examples=15)
def test_each_step_is_that_of_a_plain_model(seed: int) -> None:
    """What is scheduled, hit, preempted and next to be evicted, after each operation."""
    case = random_case(seed, 150)
    assert case.replay().tolist() == Reference(case).replay()


# -- whole simulations ------------------------------------------------------------------------------------------------


def decide(simulation: Simulation, seed: int) -> list[int]:
    """Place each request at random, checking all blocks at each decision. Returns the decided requests."""
    rng = np.random.default_rng(seed)
    decided, before = [], 0.0
    while (observed := simulation.next_decision()) is not None:
        check_pools(simulation.engine)
        assert observed.now >= before
        before = observed.now
        decided.append(int(simulation.engine.clock.current))
        simulation.place(int(rng.choice(np.flatnonzero(observed.available))))
    return decided


FAILURES = ((0.15, 0, FAIL, 1.0), (0.2, 1, DRAIN, 1.0), (0.2, 0, RETURN, 1.0), (0.4, 1, RETURN, 1.0))


@given(
    seeds, st.booleans(), st.booleans(), st.sampled_from([AMPLE, STARVED]), st.sampled_from([1, 2]),
    st.sampled_from([None, OWN, CORRECTED, ORACLE, EVENTS]),
)  # fmt: skip
@settings(max_examples=15)
def test_no_block_is_lost(seed: int, closed: bool, failing: bool, blocks: int, stages: int, mode: int | None) -> None:
    cluster = replace(
        CACHING, num_blocks=blocks, stages=stages, events=FAILURES if failing else (),
        index=None if mode is None else IndexPlan(mode),
    )  # fmt: skip
    requests = conversations(seed, closed=closed, branches=True, private=bool(seed % 2))
    simulation = cluster.simulation(requests)
    decide(simulation, seed)
    assert (simulation.engine.requests["status"] == FINISHED).all()
    all_free(simulation.engine)


@given(seeds, st.sampled_from([AMPLE, STARVED]))
@settings(max_examples=12)
def test_a_match_never_exceeds_what_the_replica_was_given(seed: int, blocks: int) -> None:
    simulation = replace(CACHING, num_blocks=blocks).simulation(conversations(seed, closed=False))
    order = decide(simulation, seed)
    requests, cached = simulation.engine.requests, simulation.engine.recording(False).requests["num_cached_tokens"]
    given_to: list[list[Ints]] = [[], []]
    for request in order:
        keys, replica = chain(simulation.engine, request), int(requests["replica"][request])
        known = [keys[: len(other)] == other[: len(keys)] for other in given_to[replica]]
        most = max((int(np.cumprod(same).sum()) for same in known), default=0)
        assert cached[request] % 16 == 0
        assert cached[request] <= min(16 * most, requests["prompt"][request] - 1)
        given_to[replica].append(keys)


@given(seeds)
@settings(max_examples=20)
def test_a_turn_finds_all_turns_before_it_answers_included(seed: int) -> None:
    """All but the last token of the answer, which no iteration computed."""
    requests = conversations(seed, sessions=5)
    _, recording = replace(CACHING, replicas=1, num_blocks=AMPLE).run(requests)
    columns = recording.requests
    turns = requests.turns
    assert turns is not None
    before = np.repeat(np.arange(len(requests)), np.diff(turns.offsets))
    totals = columns["num_prefill_tokens"] + columns["num_decode_tokens"]
    assert np.array_equal(columns["num_cached_tokens"][turns.children], (totals[before] - 1) // 16 * 16)
    rows = recording.replicas
    assert rows["query_tokens"][0] == columns["num_prefill_tokens"].sum()
    assert rows["hit_tokens"][0] == columns["num_cached_tokens"].sum()


@given(seeds, st.booleans())
@settings(max_examples=12)
def test_a_turn_arrives_its_think_time_after_the_last_answer_it_follows(seed: int, failing: bool) -> None:
    requests = conversations(seed, branches=True)
    simulation = replace(CACHING, events=FAILURES if failing else ()).simulation(requests)
    decided = decide(simulation, seed)
    arrived, ended = simulation.engine.requests["arrived_at"], simulation.engine.requests["completed_at"]
    turns = requests.turns
    assert turns is not None
    parents = np.repeat(np.arange(len(requests)), np.diff(turns.offsets))
    last = np.full(len(requests), -np.inf)
    np.maximum.at(last, turns.children, ended[parents])
    follows = np.isfinite(last)
    assert np.array_equal(arrived[follows], last[follows] + turns.think[follows])
    assert np.array_equal(arrived[~follows], requests.arrived_at[~follows])
    if not failing:
        assert sorted(decided) == list(range(len(requests)))
        assert (np.diff(arrived[decided]) >= 0).all()


BATCHER = BATCHERS.get("vllm_v1")
form_batch = kernel(BATCHER.form_batch)


def form_once(replica: int, now: float, slot: int, s: State) -> tuple[int, int]:
    size, _ = form_batch(replica, now, slot, s)
    return size, 1


@given(seeds, st.sampled_from([1.0, 8.0]), st.sampled_from([30, 60, AMPLE]))
@settings(max_examples=30)
def test_many_iterations_in_one_step_are_what_single_ones_are(seed: int, hurry: float, blocks: int) -> None:
    """Turns arrive by the clock, some while the turn before them still decodes."""
    requests = conversations(seed, closed=False, gap=0.002)
    requests = replace(requests, arrived_at=requests.arrived_at / (10 * hurry))
    cluster = replace(CACHING, replicas=1, num_blocks=blocks)
    results = []
    for form in (BATCHER.form_batch, form_once):
        simulation = Simulation(cluster.simulation(requests).engine, replace(BATCHER, form_batch=form))
        simulation.run(GLOBAL_SCHEDULERS.get("round_robin").choose)
        results.append(simulation.engine.recording(partial=False))
    together, alone = results
    assert np.allclose(together.requests["completed_at"], alone.requests["completed_at"], rtol=1e-9)
    for column in ("num_cached_tokens", "num_restarts"):
        assert np.array_equal(together.requests[column], alone.requests[column])
    for column in ("num_preemptions", "evicted_blocks", "hit_tokens", "query_tokens"):
        assert np.array_equal(together.replicas[column], alone.replicas[column])


@pytest.mark.parametrize("router", ["round_robin", "lor", "power_of_two"])
def test_compiled_routers_see_arrivals_in_order_of_time(router: str) -> None:
    requests = conversations(3, sessions=20)
    simulation, recording = replace(CACHING, router=router, record_rows=True).run(requests)
    placed = simulation.engine.requests["placed_at"]
    assert np.array_equal(placed, recording.requests["arrived_at"])
    all_free(simulation.engine)


def test_a_refused_turn_ends_its_session() -> None:
    """The third turn of one conversation is too long for any replica; those after it are refused as well."""
    requests = conversations(1, sessions=4, turns=5)
    outputs = requests.num_decode_tokens.copy()
    victim = int(np.flatnonzero(requests.session_id == 2)[2])
    outputs[victim] = 100_000
    requests = replace(requests, num_decode_tokens=outputs)
    simulation, recording = CACHING.run(requests)
    after = np.flatnonzero((requests.session_id == 2) & (np.arange(len(requests)) >= victim))
    status = recording.requests["status"]
    assert len(after) >= 3 and (status[after] == REFUSED).all()
    assert (np.delete(status, after) == FINISHED).all()
    assert int(simulation.engine.clock.num_refused) == len(after)
    all_free(simulation.engine)


# -- what routers believe ---------------------------------------------------------------------------------------------


def views(cluster: Cluster, requests: RequestTable, mode: int) -> list[Any]:
    simulation = replace(cluster, index=IndexPlan(mode)).simulation(requests)
    rng, columns = np.random.default_rng(1), []
    while (observed := simulation.next_decision()) is not None:
        columns.append(observed.prefix[:, : seen.ARRIVAL_SECONDS + 1].copy())
        simulation.place(int(rng.integers(observed.num_replicas)))
    return columns


@given(seeds)
@settings(max_examples=20)
def test_a_belief_is_the_truth_where_nothing_is_evicted(seed: int) -> None:
    """Decisions are made when all earlier requests have ended."""
    requests = conversations(seed, sessions=6)
    apart = replace(requests, turns=None, arrived_at=3.0 * np.arange(len(requests)))
    cluster = replace(CACHING, num_blocks=AMPLE)
    truth = views(cluster, apart, ORACLE)
    for mode in (OWN, CORRECTED, EVENTS):
        believed = views(cluster, apart, mode)
        for ours, true in zip(believed, truth, strict=True):
            same = [seen.MATCHED_TOKENS, seen.UNCACHED_TOKENS, seen.BACKLOG_SECONDS, seen.ARRIVAL_SECONDS]
            assert np.array_equal(ours[:, same], true[:, same])
    matched = np.array([view[:, seen.MATCHED_TOKENS] for view in truth])
    assert (matched.max(axis=1) > 0).sum() > len(requests) / 3


@given(seeds, st.sampled_from([OWN, CORRECTED]), st.booleans(), st.booleans(), st.sampled_from([0, 32, 64]))
@settings(max_examples=40)
def test_an_index_keeps_its_books(seed: int, mode: int, holds: bool, tails_first: bool, block_tokens: int) -> None:
    """Its entries are spare, held or free; at the end none is held and no more are used than it may hold."""
    options = IndexOptions(
        capacity_factor=0.6, holds=holds, tails_first=tails_first, outputs=bool(seed % 2), block_tokens=block_tokens
    )
    cluster = replace(CACHING, index=IndexPlan(mode, options), router="lor")
    simulation, _ = cluster.run(conversations(seed, sessions=12, closed=False, private=True))
    index = simulation.engine.state.indexes
    for row, pool in enumerate(index.pools):
        blocks: Any = index.blocks[row]
        spare, entry = 0, int(pool.spare)
        while entry >= 0:
            spare, entry = spare + 1, int(blocks[entry].after)
        keyed = np.flatnonzero(blocks["key"] != NO_KEY)
        assert pool.used == len(keyed) == len(blocks) - spare
        assert pool.used <= pool.capacity and (blocks["ref"] == 0).all()
        slots = index.slots[row]
        assert sorted(slots[slots >= 0].tolist()) == keyed.tolist()


@given(seeds, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([16, 64]))
@settings(max_examples=20)
def test_the_compiled_index_believes_what_the_plain_one_does(
    seed: int, holds: bool, tails_first: bool, contiguous: bool, block_tokens: int
) -> None:
    options = IndexOptions(
        block_tokens=block_tokens, capacity_factor=0.6, holds=holds, tails_first=tails_first, contiguous=contiguous,
        outputs=bool(seed % 2),
    )  # fmt: skip
    requests = conversations(seed, sessions=8, closed=False)
    assert requests.content is not None
    chains = requests.content.blocks(block_tokens)
    simulation = replace(CACHING, index=IndexPlan(OWN, options)).simulation(requests)
    plans = simulation.engine.state.replicas
    size = int(plans[0].block_size)
    capacities = [options.capacity_blocks(int(row.num_blocks) * size, block_tokens) for row in plans]
    plain, rng, on, ended = PrefixIndex(capacities, block_tokens, options), np.random.default_rng(seed), {}, set()
    columns = [seen.MATCHED_TOKENS, seen.HELD_TOKENS, seen.FREE_TOKENS]
    while (observed := simulation.next_decision()) is not None:
        ends: Any = simulation.engine.requests["completed_at"]
        for request in sorted(on.keys() - ended, key=lambda number: float(ends[number])):
            if ends[request] < observed.now:
                full = (
                    int(requests.num_prefill_tokens[request] + requests.num_decode_tokens[request]) - 1
                ) // block_tokens
                keys = chains.chain(request)[:full].tolist()
                plain.end(on[request], request, keys, full - len(keys), float(ends[request]))
                ended.add(request)
        request = int(simulation.engine.clock.current)
        prompt, keys = int(requests.num_prefill_tokens[request]), chains.chain(request).tolist()
        expected = plain.see(keys[: (prompt - 1) // block_tokens], observed.now)
        assert np.array_equal(observed.prefix[:, columns], expected[:, columns])
        on[request] = int(rng.integers(observed.num_replicas))
        full = prompt // block_tokens
        plain.place(on[request], request, keys[:full], full - len(keys[:full]), observed.now)
        simulation.place(on[request])


# -- caching off, twice the same, compiled and not, foresight ---------------------------------------------------------


def test_without_caching_content_changes_nothing() -> None:
    requests = conversations(5, sessions=15, closed=False)
    cluster = replace(CACHING, caching=False, record_rows=True)
    plain = digest(cluster.run(replace(requests, content=None))[1])
    assert digest(cluster.run(requests)[1]) == plain
    assert digest(replace(cluster, caching=True).run(requests)[1]) != plain


SMALL = replace(CACHING, record_rows=True, router="power_of_two", index=IndexPlan(CORRECTED))

PROGRAM = """
from test_prefix_cache import SMALL, conversations, digest
print(digest(SMALL.run(conversations(7, sessions=6))[1]))
"""


@cache
def small() -> str:
    return digest(SMALL.run(conversations(7, sessions=6))[1])


def test_the_same_run_twice_gives_the_same_bytes() -> None:
    assert digest(SMALL.run(conversations(7, sessions=6))[1]) == small()


def test_uncompiled_gives_the_same_bits() -> None:
    root = Path(__file__).resolve().parent
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join([str(root), str(root.parent)])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == small(), done.stderr


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("blocks", [AMPLE, STARVED])
def test_foresight_restores_the_cache_and_foresees_its_hits(blocks: int, stages: int) -> None:
    requests = conversations(11, sessions=10, turns=3, gap=0.02, closed=False)
    cluster = replace(CACHING, num_blocks=blocks, stages=stages, index=IndexPlan(OWN))

    def cost_of(choices: list[int]) -> Any:
        """The cost of these placements, in order of arrival, when no more arrive."""
        simulation = cluster.simulation(first(requests, len(choices)))
        for choice in choices:
            assert simulation.next_decision() is not None
            simulation.place(choice)
        assert simulation.next_decision() is None
        return cost_parts(simulation.engine.requests)

    simulation, choices = cluster.simulation(requests), []
    projected = np.full((len(requests), 2), np.nan)
    while simulation.next_decision() is not None:
        if len(choices) % 4 == 3:
            before = copies(simulation.engine)
            for replica in range(2):
                fine, costs = foresee_now(simulation, "vllm_v1", replica, projected)
                assert fine and copies(simulation.engine) == before
                expected = cost_of([*choices, replica]) - cost_of(choices)
                assert costs == pytest.approx(expected, rel=1e-9, abs=1e-9)
        choice = len(choices) % 2
        assert foresee_now(simulation, "vllm_v1", choice, projected, keep=True)[0]
        simulation.place(choice)
        choices.append(choice)


def test_foreseeing_a_refusal_ends_no_session() -> None:
    requests = conversations(1, sessions=2, turns=3)
    outputs = requests.num_decode_tokens.copy()
    outputs[0] = 100_000
    simulation = CACHING.simulation(replace(requests, num_decode_tokens=outputs))
    assert simulation.next_decision() is not None and int(simulation.engine.clock.current) == 0
    before = copies(simulation.engine)
    fine, _ = foresee_now(simulation, "vllm_v1", 0, np.full((len(requests), 2), np.nan))
    assert not fine and copies(simulation.engine) == before
