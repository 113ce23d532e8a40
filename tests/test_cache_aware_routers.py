"""Routers that know prefix caches: decisions worked out by hand from each one's rule, as plain Python and compiled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
import pytest
from observations import observe, router

import vidur.scheduler.compiled  # noqa: F401, registers shared functions with Numba
from vidur.config import BaseGlobalSchedulerConfig
from vidur.engine.cluster import choose
from vidur.engine.compile import COMPILED
from vidur.engine.plug import choose_callback
from vidur.observation import (
    ARRIVAL_SECONDS,
    AWAITING,
    BACKLOG_SECONDS,
    HELD_TOKENS,
    MATCHED_TOKENS,
    PREFIX_COLUMNS,
    UNCACHED_TOKENS,
    WEIGHTS_SECONDS,
    ClusterObservation,
    Floats,
    View,
)
from vidur.prefix_index import IndexOptions
from vidur.scheduler.routers import GLOBAL_SCHEDULERS
from vidur.scheduler.routers.choice import least_at_random
from vidur.scheduler.routers.consistent_hash import furc_hash, murmur_hash

CACHE_AWARE = [name for name in GLOBAL_SCHEDULERS.names() if GLOBAL_SCHEDULERS.get(name).needs_index]


def chosen(name: str, seen: ClusterObservation, times: int = 60, **settings: Any) -> set[int]:
    """The replicas that a router chooses, whatever it draws."""
    scheduler = router(name, seen.num_replicas, **settings)
    return {scheduler.schedule(seen) for _ in range(times)}


def test_the_routers_that_need_an_index() -> None:
    assert set(CACHE_AWARE) == {
        "aibrix", "dynamo", "llm_d", "llm_d_sticky", "lmetric", "prefix_aware", "sglang_cache_aware", "smg", "time_cost"
    }  # fmt: skip


def test_ties_are_broken_alike() -> None:
    scores, allowed = np.array([2.0, 1.0, 0.0, 1.0, 1.0]), np.array([1, 1, 0, 1, 1])
    draws = [(i + 0.5) / 300 for i in range(300)]
    assert Counter(least_at_random(scores, allowed, draw) for draw in draws) == {1: 100, 3: 100, 4: 100}
    assert least_at_random(scores, np.array([1, 0, 0, 0, 0]), 0.999) == 0


def seconds(
    backlog: Sequence[float], arrival: Sequence[float], outstanding: Sequence[int], awaiting: Sequence[int]
) -> ClusterObservation:
    count = len(backlog)
    prefix = {BACKLOG_SECONDS: backlog, ARRIVAL_SECONDS: arrival, WEIGHTS_SECONDS: [0.01] * count}
    seen = observe(count, outstanding=outstanding, prefix=prefix)
    seen.ledger[:, AWAITING] = awaiting
    return seen


def test_time_cost_adds_backlog_prefill_delay_and_weights() -> None:
    # 0.5 + 0.1 against 0 + 0.5: the cached replica loses to its backlog, by 0.1 s.
    assert chosen("time_cost", seconds([0.5, 0], [0.1, 0.5], [0, 0], [0, 0])) == {1}
    # Two requests in decode: 0.5 (1 + 0.6) + 0.5 x 2 x 0.01 = 0.81 is more than 0.6; one: 0.655; none: see above.
    assert chosen("time_cost", seconds([0.5, 0], [0.1, 0.5], [0, 2], [0, 0])) == {0}
    assert chosen("time_cost", seconds([0.5, 0], [0.1, 0.5], [0, 1], [0, 0])) == {0}
    assert chosen("time_cost", seconds([0.5, 0], [0.1, 0.5], [0, 1], [0, 0]), decode_weight=0.1) == {1}
    # The same two without a first token delay nobody's decode: 0.5 + 0.01.
    assert chosen("time_cost", seconds([0.5, 0], [0.1, 0.5], [0, 2], [0, 2])) == {1}
    assert chosen("time_cost", seconds([0.5, 0], [0.1, 0.5], [0, 2], [0, 2]), request_weight=6.0) == {0}
    assert chosen("time_cost", seconds([0.25, 0.25], [0.1, 0.1], [1, 1], [1, 1])) == {0, 1}


def test_llm_d_sums_queue_kv_and_prefix() -> None:
    # Prompt 640: ten blocks of 64. Queue 1, 0, 0.5; KV 0.5, 1, 0.9; prefix 0, 0.9, 0.2: 3, 4.7, 3.4.
    prefix = {MATCHED_TOKENS: [0, 576, 128]}
    seen = observe(3, prompt=640, waiting=[0, 10, 5], kv_usage=[0.5, 0.0, 0.1], prefix=prefix)
    assert chosen("llm_d", seen) == {1}
    # With a queue weight of 4: 5, 4.7, 4.4.
    assert chosen("llm_d", seen, queue_weight=4.0) == {0}
    # Equal queues score 1 everywhere. A prompt of 641 has eleven blocks: 3 x 9 / 11 against 2 x 0.4 more free KV cache.
    level = observe(2, prompt=641, waiting=[3, 3], kv_usage=[0.4, 0.0], prefix={MATCHED_TOKENS: [576, 384]})
    assert chosen("llm_d", level) == {0}  # 2.454 + 1.2 against 1.636 + 2
    level.gauges[0, 2] = 0.42
    assert chosen("llm_d", level) == {1}  # 3.614 against 3.636
    # The queues of replicas that are not available do not count.
    away = observe(3, prompt=640, waiting=[0, 1, 100], available=[1, 1, 0], prefix={MATCHED_TOKENS: [0, 320, 0]})
    assert chosen("llm_d", away) == {0}  # 2 against 1.5


def sticky(in_flight: Sequence[float], matched: Sequence[float], outstanding: Sequence[float]) -> ClusterObservation:
    prefix = {UNCACHED_TOKENS: in_flight, MATCHED_TOKENS: matched}
    return observe(len(matched), prompt=6400, outstanding=outstanding, prefix=prefix)


def test_llm_d_sticky_stays_until_saturated() -> None:
    gap = 18 * 15_928
    # 80 of 100 blocks match on two replicas; the lesser load wins, not the longer match.
    assert chosen("llm_d_sticky", sticky([9000, 3000, 0], [5120, 5120, 5056], [0, 0, 0])) == {1}
    assert chosen("llm_d_sticky", sticky([3000, 3000, 0], [6336, 5120, 5056], [0, 0, 0])) == {0}
    # Below the threshold everywhere: the least load of all, 0 + 6400 - 5056.
    assert chosen("llm_d_sticky", sticky([9000, 3000, 0], [5056, 5056, 5056], [0, 0, 0])) == {2}
    # A gap of 18 s exactly holds; a token more ends it.
    assert chosen("llm_d_sticky", sticky([gap, gap + 9, 0], [5120, 5120, 0], [0, 0, 0])) == {0}
    assert chosen("llm_d_sticky", sticky([gap + 1, gap + 9, 0], [5120, 5120, 0], [0, 0, 0])) == {2}
    assert chosen("llm_d_sticky", sticky([gap, 0], [5120, 0], [0, 0]), prefill_throughput=15_000.0) == {1}
    # Beyond 4,194,304 tokens loads are equal.
    assert chosen("llm_d_sticky", sticky([5e6, 6e6], [6336, 6336], [0, 0])) == {0, 1}
    # The other scorer counts requests.
    both = sticky([9000, 3000, 0], [5120, 5120, 0], [1, 2, 0])
    assert chosen("llm_d_sticky", both, scorer="active_request") == {0}
    # Sticky everywhere: nothing to compare the backlog with.
    assert chosen("llm_d_sticky", sticky([gap * 2, gap * 3], [5120, 5120], [0, 0])) == {0}


def dynamo(in_flight: Sequence[float], matched: Sequence[float], held: Sequence[float]) -> ClusterObservation:
    prefix = {UNCACHED_TOKENS: in_flight, MATCHED_TOKENS: matched, HELD_TOKENS: held}
    return observe(len(matched), prompt=1000, outstanding=[8, 0], prefix=prefix)


def test_dynamo_counts_blocks_to_prefill_and_to_hold() -> None:
    assert chosen("dynamo", dynamo([0, 0], [800, 0], [700, 0])) == {0}  # 200 + 700 against 1000
    assert chosen("dynamo", dynamo([0, 0], [800, 0], [900, 0])) == {1}  # 1100 against 1000
    assert chosen("dynamo", dynamo([0, 0], [800, 0], [900, 0]), overlap_score_credit=1.2) == {0}  # 940 against 1000
    # No credit beyond nothing to do: max(0, 1000 - 1600) + 1001 against 1000.
    assert chosen("dynamo", dynamo([0, 0], [800, 0], [1001, 0]), overlap_score_credit=2.0) == {1}
    # With a decay of 1 and a backlog of two prompts, the credit of 800 is a third.
    assert chosen("dynamo", dynamo([2000, 0], [800, 0], [0, 1500])) == {0}  # 2200 against 2500
    assert chosen("dynamo", dynamo([2000, 0], [800, 0], [0, 1500]), overlap_score_credit_decay=1.0) == {1}  # 2733
    assert chosen("dynamo", dynamo([0, 0], [800, 0], [900, 0]), prefill_load_scale=2.0) == {0}  # 1300 against 2000
    assert chosen("dynamo", dynamo([0, 0], [800, 0], [700, 0]), active_request_weight=20.0) == {1}  # 900 + 160


def test_dynamo_draws_from_a_softmax() -> None:
    """Costs scaled to 0 and 1: at temperature 0.5 the dearer replica has odds of exp(-2)."""
    scheduler = router("dynamo", 2, temperature=0.5)
    seen = dynamo([0, 0], [800, 0], [700, 0])
    assert scheduler.needs_index
    share = sum(scheduler.schedule(seen) == 1 for _ in range(4000)) / 4000
    assert share == pytest.approx(math.exp(-2) / (1 + math.exp(-2)), abs=0.02)


def test_lmetric_multiplies() -> None:
    def lmetric(outstanding: Sequence[float], matched: Sequence[float], queued: Sequence[float]) -> ClusterObservation:
        prefix = {MATCHED_TOKENS: matched, UNCACHED_TOKENS: queued}
        return observe(len(matched), prompt=1000, outstanding=outstanding, prefix=prefix)

    assert chosen("lmetric", lmetric([3, 0], [800, 0], [0, 0])) == {0}  # 200 x 4 against 1000
    assert chosen("lmetric", lmetric([5, 0], [800, 0], [0, 0])) == {1}  # 1200 against 1000
    assert chosen("lmetric", lmetric([3, 0], [800, 0], [100, 0])) == {1}  # 300 x 4
    assert chosen("lmetric", lmetric([3, 0], [800, 0], [100, 0]), counts_queued=False) == {0}


def loaded(outstanding: Sequence[float], matched: Sequence[float], **more: Any) -> ClusterObservation:
    return observe(len(matched), prompt=1000, outstanding=outstanding, prefix={MATCHED_TOKENS: matched}, **more)


def test_sglang_follows_the_cache_of_a_balanced_cluster() -> None:
    name = "sglang_cache_aware"
    assert chosen(name, loaded([40, 0, 3], [304, 288, 0])) == {0}
    # A rate of 0.3 is not above the threshold: the fewest requests, the first among equals.
    assert chosen(name, loaded([40, 5, 5], [300, 288, 0])) == {1}
    # 64 more is balanced still; 65 is not, unless 1.5 times the fewest is no less.
    assert chosen(name, loaded([64, 0, 3], [304, 0, 0])) == {0}
    assert chosen(name, loaded([65, 0, 3], [304, 0, 0])) == {1}
    assert chosen(name, loaded([195, 130, 140], [304, 0, 0])) == {0}
    assert chosen(name, loaded([196, 130, 140], [304, 0, 0])) == {1}
    # The load of a replica that is not available counts, but it is not chosen.
    assert chosen(name, loaded([65, 0, 3], [304, 0, 0], available=[1, 0, 1])) == {2}
    assert chosen(name, loaded([5, 0, 3], [304, 0, 304])) == {0, 2}


def test_sglang_has_two_sets_of_defaults() -> None:
    family = BaseGlobalSchedulerConfig.from_type("sglang_cache_aware")
    assert family().constants == (0.3, 64, 1.5, 67_108_864)
    assert family(defaults="library").constants == (0.5, 32, 1.1, 10_000)
    assert family(defaults="library", balance_abs_threshold=0.0, cache_threshold=0.9).constants == (0.9, 0, 1.1, 10_000)
    balanced = loaded([0, 33, 40], [0, 480, 0])
    assert chosen("sglang_cache_aware", balanced) == {1}
    assert chosen("sglang_cache_aware", balanced, defaults="library") == {0}


def test_smg_spills_the_request_whose_replica_is_hot() -> None:
    # Means of 50 and 51.5: 115 is neither more than 1.5 times the mean nor 64 above it ... 116 is both.
    assert chosen("smg", loaded([110, 35, 5], [400, 0, 0])) == {0}  # 60 above 50
    assert chosen("smg", loaded([116, 35, 2], [400, 0, 0])) == {2}  # 65 above 51
    # Two hold the match: the one with fewer requests, then either.
    assert chosen("smg", loaded([20, 10, 0], [400, 400, 0])) == {1}
    assert chosen("smg", loaded([10, 10, 0], [400, 400, 0])) == {0, 1}
    # A hot holder gives way to another holder, whatever its load; with none, to the least of all that are not hot.
    assert chosen("smg", loaded([200, 90, 0], [400, 400, 0])) == {1}
    assert chosen("smg", loaded([10, 20, 0], [300, 0, 0])) == {2}  # no match above 0.3 of the prompt
    assert chosen("smg", loaded([10, 20, 0], [300, 0, 0]), belief="shared") == {0}
    assert chosen("smg", loaded([30, 0], [400, 0]), balance_abs_threshold=10.0) == {1}


def test_aibrix_takes_the_longest_match_within_a_deviation() -> None:
    # Mean 4, deviation sqrt((4 + 1 + 9) / 2) = 2.65: 6 passes.
    assert chosen("aibrix", loaded([6, 5, 1], [900, 500, 0])) == {0}
    # Mean 5, deviation 3.46: 9 does not pass, 3 does.
    assert chosen("aibrix", loaded([9, 3, 3], [900, 500, 0])) == {1}
    assert chosen("aibrix", loaded([9, 3, 3], [900, 500, 0]), deviations=2.0) == {0}
    # No match passes: the fewest requests.
    assert chosen("aibrix", loaded([9, 3, 3], [900, 0, 0])) == {1, 2}
    # Equal in whole percent: the fewer requests.
    assert chosen("aibrix", loaded([3, 2, 1], [508, 500, 0])) == {1}
    assert chosen("aibrix", loaded([3, 2, 1], [510, 500, 0])) == {0}
    # Beyond a gap of 8 only the least loaded may match, unless the busiest has not enough.
    assert chosen("aibrix", loaded([8, 0, 8], [900, 0, 0], available=[1, 1, 1])) == {0}
    assert chosen("aibrix", loaded([9, 0, 9], [900, 16, 0])) == {1}
    assert chosen("aibrix", loaded([9, 0, 9], [900, 16, 0]), imbalance_factor=2.0) == {0}
    assert chosen("aibrix", loaded([7], [900])) == {0}


def test_prefix_aware_ignores_load() -> None:
    assert chosen("prefix_aware", loaded([500, 0, 0], [64, 32, 0])) == {0}
    assert chosen("prefix_aware", loaded([500, 0, 0], [64, 64, 0])) == {0, 1}
    assert chosen("prefix_aware", loaded([500, 0, 0], [0, 0, 0])) == {0, 1, 2}
    assert chosen("prefix_aware", loaded([0, 0, 0], [64, 32, 0], available=[0, 1, 1])) == {1}


OWN: Mapping[str, IndexOptions | None] = {
    "aibrix": IndexOptions(0, 1.0, 200_000, outputs=False, holds=False, tails_first=False, ttl=1200),
    "dynamo": IndexOptions(0, 1.0, 1 << 40, outputs=False, holds=False, ttl=120),
    "llm_d": IndexOptions(64, 4.0, outputs=False, holds=False, tails_first=False, contiguous=False),
    "llm_d_sticky": IndexOptions(64, 4.0, outputs=False, holds=False, tails_first=False, contiguous=False),
    "lmetric": IndexOptions(0, 1.0, 1 << 24, outputs=False, holds=False),
    "prefix_aware": IndexOptions(32, 1.0, 1 << 40, outputs=False, holds=False),
    "sglang_cache_aware": IndexOptions(0, 1.0, 1 << 24, outputs=False, holds=False),
    "smg": IndexOptions(0, 1.0, 1 << 24, outputs=False, holds=False),
    "time_cost": None,
}


@pytest.mark.parametrize("name", CACHE_AWARE)
def test_beliefs(name: str) -> None:
    """Each has the index that it keeps in production, or the cluster's."""
    cls, family = GLOBAL_SCHEDULERS.get(name), BaseGlobalSchedulerConfig.from_type(name)
    if name != "time_cost":
        assert cls.index_options(family(belief="shared")) is None
        assert cls.index_options(family(belief="own")) == OWN[name]
    shared = name in ("dynamo", "lmetric", "time_cost")
    assert (cls.index_options(family()) is None) == shared


@numba.njit  # type: ignore[untyped-decorator]
def call(handle: int, view: View, memory: Floats, draws: Floats) -> int:
    return choose(handle, (view, memory, draws))  # type: ignore[no-any-return]


@pytest.mark.skipif(not COMPILED, reason="compares compiled with plain")
@pytest.mark.parametrize("name", [*CACHE_AWARE, "consistent_hash"])
def test_compiled_and_plain_choose_alike(name: str) -> None:
    """In random states, with ties."""
    rng = np.random.default_rng(5)
    scheduler = router(name, 4)
    handle, memory = choose_callback.handle(type(scheduler).choose), scheduler.memory
    decided = set()
    for i in range(300):
        seen = observe(
            4,
            prompt=int(rng.integers(600, 900)),
            identity=(int(rng.integers(-1, 1 << 40)) if i % 3 else -1, i),
            available=rng.permutation([1, 1, 1, int(rng.integers(0, 2))]).tolist(),
            outstanding=(rng.integers(0, 3, 4) * 40.0).tolist(),
            waiting=rng.integers(0, 3, 4).tolist(),
            kv_usage=rng.random(4).tolist(),
            prefix={column: (rng.integers(0, 4, 4) * 200.0).tolist() for column in range(PREFIX_COLUMNS)},
        )
        draws = rng.random(2)
        plain = type(scheduler).choose(seen.view, memory.copy(), draws)
        assert call(handle, seen.view, memory.copy(), draws) == plain
        decided.add(plain)
    assert decided == {0, 1, 2, 3}


def test_hashes_have_the_values_of_the_original() -> None:
    """MurmurHash64A of Austin Appleby, seed of mcrouter; FurcHash is bounded and spreads."""

    def text(value: str) -> Any:
        return np.frombuffer(value.encode(), np.uint8).astype(np.int64)

    hashes = [furc_hash(text(f"key-{i}"), len(f"key-{i}")) for i in range(2000)]
    assert min(hashes) >= 0 and max(hashes) < 2**23 - 1
    quarters = Counter(value >> 21 for value in hashes)
    assert len(quarters) == 4 and max(quarters.values()) < 580
    assert len({murmur_hash(text("abcdefghij"), length) % (1 << 64) for length in range(11)}) == 11
