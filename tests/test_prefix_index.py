"""The router's index of prefixes, against a model of it that is as plain as its description."""

from __future__ import annotations

import math
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidur import prefix_index
from vidur.observation import EVICTION_AGE, FREE_TOKENS, HELD_TOKENS, MATCHED_TOKENS
from vidur.prefix_index import MOST_WALKED_TOKENS, IndexOptions, PrefixIndex

Block = int | tuple[int, int]  # a key, or a private block by run and number


class Model:
    """One replica: what outstanding requests hold, and the queue of all else as (block, time), oldest first."""

    def __init__(self, capacity: int, options: IndexOptions) -> None:
        self.capacity, self.options = capacity, options
        self.outstanding: dict[int, tuple[list[int], int]] = {}
        self.queue: list[tuple[Block, float]] = []
        self.runs = 0

    def held(self) -> set[int]:
        return {key for keys, _ in self.outstanding.values() for key in keys} if self.options.holds else set()

    def held_blocks(self) -> int:
        private = sum(private for _, private in self.outstanding.values()) if self.options.holds else 0
        return len(self.held()) + private

    def present(self, key: int) -> bool:
        return key in self.held() or key in [block for block, _ in self.queue]

    def place(self, request: int, keys: list[int], private: int, now: float) -> None:
        self.outstanding[request] = keys, private
        if self.options.holds:
            self.queue = [entry for entry in self.queue if entry[0] not in keys]
        else:
            self.enqueue(keys, private, now)
        self.evict()

    def end(self, request: int, keys: list[int], private: int, now: float) -> None:
        before = self.outstanding.pop(request)
        if not self.options.outputs:
            keys, private = before
        if self.options.holds:
            self.enqueue([key for key in keys if key not in self.held()], private, now)
        elif self.options.outputs:
            self.enqueue(keys, max(private - before[1], 0), now)
        self.evict()

    def enqueue(self, keys: Sequence[int], private: int, now: float) -> None:
        self.runs += 1
        blocks: list[Block] = [*keys, *((self.runs, i) for i in range(private))]
        self.queue = [entry for entry in self.queue if entry[0] not in blocks]
        self.queue += [(block, now) for block in (reversed(blocks) if self.options.tails_first else blocks)]

    def used(self) -> int:
        return self.held_blocks() + len(self.queue)

    def evict(self) -> None:
        del self.queue[: max(self.used() - self.capacity, 0)]

    def forget(self, now: float) -> None:
        self.queue = [(block, since) for block, since in self.queue if now - since <= self.options.ttl]


def expected_matches(models: Sequence[Model], keys: Sequence[int]) -> list[int]:
    options = models[0].options
    presence = np.array([[model.present(key) for model in models] for key in keys]).reshape(-1, len(models))
    if options.contiguous:
        return [int(np.cumprod(column).sum()) for column in presence.T]
    reached = np.cumprod(presence.any(axis=1))
    return [int((column * reached).sum()) for column in presence.T]


def chain(path: Sequence[bool]) -> list[int]:
    """The keys of a path through a binary tree: equal keys mean equal paths up to there."""
    keys, key = [], 1
    for step in path:
        key = 2 * key + step
        keys.append(key)
    return keys


paths = st.lists(st.booleans(), max_size=7)
operations = st.lists(
    st.tuples(st.integers(0, 2), paths, st.integers(0, 3), st.integers(0, 5), st.sampled_from([0.0, 0.5, 2.0])),
    max_size=40,
)
every_option = st.builds(
    IndexOptions,
    outputs=st.booleans(),
    holds=st.booleans(),
    tails_first=st.booleans(),
    contiguous=st.booleans(),
    ttl=st.sampled_from([math.inf, 3.0]),
).filter(lambda options: not options.tails_first or options.contiguous)


def check(index: PrefixIndex, models: Sequence[Model], path: Sequence[bool], now: float) -> None:
    for model in models:
        model.forget(now)
    assert index.match(chain(path), now) == expected_matches(models, chain(path))
    seen = index.see(chain(path), now)
    for replica, model in enumerate(models):
        free = model.capacity - model.used()
        age = now - model.queue[0][1] if model.queue and free <= 0 else 0.0
        assert index.held(replica) == model.held_blocks() and index.free(replica) == free
        assert seen[replica, [HELD_TOKENS, FREE_TOKENS, EVICTION_AGE]].tolist() == [
            16 * model.held_blocks(), 16 * free, age
        ]  # fmt: skip
        assert free >= 0 or not model.queue
    assert seen[:, MATCHED_TOKENS].tolist() == [16 * blocks for blocks in index.match(chain(path), now)]


@settings(max_examples=300, deadline=None)
@given(every_option, st.lists(st.integers(0, 12), min_size=3, max_size=3), operations)
def test_it_does_what_its_description_says(
    options: IndexOptions, capacities: list[int], steps: list[tuple[int, list[bool], int, int, float]]
) -> None:
    """Requests are placed, and end in any order, with and without an answer."""
    with patch.object(prefix_index, "ANCHOR_BLOCKS", 2):
        compare_with_models(options, capacities, steps)


def compare_with_models(
    options: IndexOptions, capacities: list[int], steps: list[tuple[int, list[bool], int, int, float]]
) -> None:
    index = PrefixIndex(capacities, 16, options)
    models = [Model(capacity, options) for capacity in capacities]
    outstanding: list[tuple[int, int, list[bool], int]] = []
    now = 0.0
    for number, (replica, path, private, action, seconds) in enumerate(steps):
        now += seconds
        for model in models:
            model.forget(now)
        if action < 3 or not outstanding:
            index.place(replica, number, chain(path), private, now)
            models[replica].place(number, chain(path), private, now)
            outstanding.append((replica, number, path, private))
        elif action < 5:
            replica, request, prompt, _ = outstanding.pop(private % len(outstanding))
            answered = prompt + path if action == 3 else prompt
            index.end(replica, request, chain(answered), private, now)
            models[replica].end(request, chain(answered), private, now)
        else:
            index.clear(replica)
            models[replica] = Model(capacities[replica], options)
            outstanding = [request for request in outstanding if request[0] != replica]
        check(index, models, path, now)


def test_tails_go_before_heads() -> None:
    index = PrefixIndex([4], 16)
    index.place(0, 7, [1, 2, 3], 1, 0.0)
    assert index.held(0) == 4 and index.free(0) == 0
    index.end(0, 7, [1, 2, 3, 4], 0, 1.0)
    assert index.match([1, 2, 3, 4], 1.0) == [4]
    # Two blocks more: the last two of the chain make room, then, with another, the first but one.
    index.place(0, 8, [9], 1, 2.0)
    assert index.match([1, 2, 3, 4], 2.0) == [2]
    index.place(0, 9, [1, 5], 0, 3.0)
    assert index.match([1, 2, 3, 4], 3.0) == [1] and index.free(0) == 0
    # All is held: more than there is room for.
    index.place(0, 10, [6, 7], 3, 4.0)
    assert index.free(0) == -5 and index.match([6, 7], 4.0) == [2]
    index.end(0, 10, [6, 7], 3, 5.0)
    assert index.free(0) == 0 and index.match([6, 7], 5.0) == [0]


def test_heads_go_first_without_holding() -> None:
    options = IndexOptions(holds=False, outputs=False, tails_first=False, contiguous=False)
    index = PrefixIndex([4, 4], 64, options)
    index.place(0, 1, [1, 2, 3], 0, 0.0)
    index.place(0, 2, [8, 9], 0, 1.0)
    index.place(1, 3, [1], 0, 2.0)
    # Replica 0 has lost the head. llm-d counts the rest of it, as long as another replica has the head.
    assert index.match([1, 2, 3], 2.0) == [2, 1]
    index.end(0, 1, [1, 2, 3, 4], 0, 3.0)
    assert index.match([1, 2, 3, 4], 3.0) == [2, 1]
    assert PrefixIndex([4], 64, options).match([1, 2], 0.0) == [0]


def test_long_chains_are_cut_unless_tails_go_first() -> None:
    blocks = MOST_WALKED_TOKENS // 64
    keys = list(range(1, blocks + 100))
    short, whole = (PrefixIndex([10_000], 64, IndexOptions(tails_first=tails_first)) for tails_first in (False, True))
    for index in (short, whole):
        index.place(0, 1, keys, 20, 0.0)
    assert (short.match(keys, 0.0), short.held(0)) == ([blocks], blocks)
    assert (whole.match(keys, 0.0), whole.held(0)) == ([blocks + 99], blocks + 119)


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        (IndexOptions(), 1000),
        (IndexOptions(capacity_factor=4.0, block_tokens=64), 1000),
        (IndexOptions(capacity_tokens=3200), 200),
    ],
)
def test_capacities(options: IndexOptions, blocks: int) -> None:
    assert options.capacity_blocks(16_000, options.block_tokens or 16) == blocks


def test_what_is_not_evicted_is_known() -> None:
    """With room for all, the index knows every block that was placed, and nothing else."""
    rng = np.random.default_rng(2)
    index = PrefixIndex([1 << 40] * 8, 16)
    known: list[set[int]] = [set() for _ in range(8)]
    for number in range(400):
        keys = [int(rng.integers(3)) << 32] * int(rng.integers(1, 400))
        keys = [key + depth for depth, key in enumerate(keys)]
        depths = index.match(keys, float(number))
        for replica in range(8):
            assert depths[replica] == sum(key in known[replica] for key in keys)
        replica = int(rng.integers(8))
        index.place(replica, number, keys, 2, float(number))
        known[replica].update(keys)
        if number % 3:
            index.end(replica, number, keys, 1, float(number))


def test_a_prompt_that_comes_again_and_again_takes_no_more_memory() -> None:
    index, keys = PrefixIndex([100_000], 16), list(range(500))
    for number in range(200):
        index.place(0, number, keys, 0, float(number))
        index.end(0, number, keys, 0, float(number))
    remembered = sum(len(joined.keys) for joined in index._replicas[0]._queue)
    assert remembered < 3 * len(keys) + 2 * 10_000
    assert index.match(keys, 200.0) == [500] and index.free(0) == 99_500
