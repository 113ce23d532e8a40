"""Each router's decisions by hand: its kernel as plain Python, on small observations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from clusters import FAIL, Cluster, request_table
from observations import observe, router

from vidur.config import LORGlobalSchedulerConfig
from vidur.observation import (
    AWAITING_TOKENS,
    DECODE_SECONDS,
    GAUGE_AGE,
    GAUGE_RUNNING,
    GAUGE_WAITING,
    OUTSTANDING,
    PREFILL_SECONDS,
    STREAMED_TOKENS,
    Floats,
)
from vidur.scheduler.routers import GLOBAL_SCHEDULERS
from vidur.scheduler.routers.power_of_two import choose_power_of_two
from vidur.scheduler.routers.random import choose_random


def with_draws(choose: Any, draws: tuple[float, float], outstanding: Sequence[float], available: Sequence[int]) -> int:
    seen = observe(len(outstanding), outstanding=outstanding)
    chosen = choose(seen.view._replace(available=np.array(available)), np.zeros(1), np.array(draws))
    return int(chosen)


def test_round_robin_passes_over_what_is_not_available() -> None:
    scheduler = router("round_robin", 4)
    chosen = [scheduler.schedule(observe(4, available=[1, 1, 0, 1])) for _ in range(7)]
    assert chosen == [0, 1, 3, 0, 1, 3, 0]


# Two hash the session; one takes the lowest number among replicas with as many requests.
UNEVEN = ("session_hash", "consistent_hash", "sglang_cache_aware")


@pytest.mark.parametrize("name", [name for name in GLOBAL_SCHEDULERS.names() if name not in UNEVEN])
def test_equal_replicas_share_evenly(name: str) -> None:
    """Equal observations again and again: nobody is preferred, the unavailable least of all."""
    scheduler = router(name, 5)
    chosen = Counter(scheduler.schedule(observe(5, available=[1, 0, 1, 1, 1])) for _ in range(2000))
    assert set(chosen) == {0, 2, 3, 4}
    assert min(chosen.values()) > 420


@pytest.mark.parametrize("name", GLOBAL_SCHEDULERS.names())
def test_the_only_available_replica_is_chosen(name: str) -> None:
    scheduler = router(name, 3)
    busy = observe(3, available=[0, 0, 1], outstanding=[0, 0, 99], prompt_tokens=[0, 0, 1e6], kv_usage=[0, 0, 1])
    assert {scheduler.schedule(busy) for _ in range(20)} == {2}
    assert router(name, 1).schedule(observe(1)) == 0


def test_random_takes_each_available_replica_for_its_part_of_the_draw() -> None:
    chosen = [with_draws(choose_random, (draw, 0.0), [0, 0, 0, 0], [1, 0, 1, 1]) for draw in (0.0, 0.32, 0.34, 0.67)]
    assert chosen == [0, 0, 2, 3]


def test_lor_counts_the_running_and_lets_equals_take_turns() -> None:
    scheduler = router("lor", 3)
    assert scheduler.schedule(observe(3, outstanding=[2, 1, 3], waiting=[0, 1, 0])) == 1
    # Nobody waits anywhere; what runs counts all the same.
    assert [scheduler.schedule(observe(3, outstanding=[5, 1, 1])) for _ in range(4)] == [2, 1, 2, 1]


def test_lor_of_the_waiting_takes_the_lowest_number() -> None:
    scheduler = router("lor", 3, LORGlobalSchedulerConfig(count="waiting"))
    assert scheduler.needs_fresh_gauges
    assert [scheduler.schedule(observe(3, outstanding=[9, 1, 0])) for _ in range(3)] == [0, 0, 0]
    assert scheduler.schedule(observe(3, waiting=[2, 1, 1])) == 1


@pytest.mark.parametrize(
    ("draws", "available", "chosen"),
    [
        ((0.0, 0.0), [1, 1, 1, 1], 1),  # 0 and 1
        ((0.5, 0.99), [1, 1, 1, 1], 3),  # 2 and 3
        ((0.99, 0.0), [1, 1, 1, 1], 3),  # 3 and 0
        ((0.0, 0.0), [1, 0, 1, 1], 0),  # 0 and 2
        ((0.0, 0.0), [0, 0, 1, 0], 2),
    ],
)
def test_power_of_two_compares_the_two_it_draws(
    draws: tuple[float, float], available: Sequence[int], chosen: int
) -> None:
    assert with_draws(choose_power_of_two, draws, [5, 3, 9, 1], available) == chosen


def test_power_of_two_draws_every_pair_equally() -> None:
    """The one with the most can win no pair; each other wins those it is the least of."""
    cells = [((a + 0.5) / 4, (b + 0.5) / 3) for a in range(4) for b in range(3)]
    won = Counter(with_draws(choose_power_of_two, draws, [4, 3, 2, 1], [1, 1, 1, 1]) for draws in cells)
    assert won == {3: 6, 2: 4, 1: 2}
    # Among equals the first that was drawn.
    equals = Counter(with_draws(choose_power_of_two, draws, [0, 0, 0, 0], [1, 1, 1, 1]) for draws in cells)
    assert equals == {0: 3, 1: 3, 2: 3, 3: 3}


def test_least_tokens_expects_the_prior_until_completions_outweigh_it() -> None:
    scheduler = router("least_tokens", 2)
    owed: dict[str, Any] = {"outstanding": [1, 3], "prompt_tokens": [1000, 400]}
    assert scheduler.schedule(observe(2, **owed)) == 1  # 1000 + 256 > 400 + 3 * 256
    # Twenty completions of 1,000 weigh as much as the prior: the expectation is 628.
    assert scheduler.schedule(observe(2, **owed, completed=(20, 20_000))) == 0


@pytest.mark.parametrize(("backlog", "chosen"), [(0, 0), (355, 0), (357, 1)])
def test_least_tokens_divides_by_speed_with_the_arrival_counted(backlog: float, chosen: int) -> None:
    """With 100 + 256 to come, half the speed is even once the fast one owes 356 more."""
    scheduler = router("least_tokens", 2, speeds=[1.0, 0.5])
    seen = observe(2, prompt_tokens=[backlog, 0], speeds=[1.0, 0.5], prompt=100)
    assert scheduler.schedule(seen) == chosen


def test_least_kv_cache_believes_its_gauges() -> None:
    seen = observe(3, outstanding=[0, 50, 0], prompt_tokens=[0, 1e6, 0], kv_usage=[0.5, 0.2, 0.4])
    assert router("least_kv_cache", 3).schedule(seen) == 1


def chosen_by(name: str, speeds: Sequence[float], ledger: dict[int, Sequence[float]]) -> int:
    """The choice for a prompt of 100 tokens, which the fastest replica reads in 10 ms; its iteration takes 10 ms."""
    seen = observe(len(speeds), prompt=100, speeds=speeds)
    seen.hardware[:, PREFILL_SECONDS] = 1e-4 / np.array(speeds)
    seen.hardware[:, DECODE_SECONDS] = 1e-2 / np.array(speeds)
    for column, values in ledger.items():
        seen.ledger[:, column] = values
    return router(name, len(speeds), speeds=speeds).schedule(seen)


def test_lor_by_speed_counts_the_arrival() -> None:
    assert chosen_by("lor_by_speed", [1.0, 0.4], {OUTSTANDING: [3, 1]}) == 0  # (3 + 1) / 1 < (1 + 1) / 0.4
    assert chosen_by("lor_by_speed", [1.0, 0.4], {OUTSTANDING: [5, 1]}) == 1


def test_fewest_prompts_looks_at_what_is_to_be_read() -> None:
    assert chosen_by("fewest_prompts", [1.0, 0.5], {AWAITING_TOKENS: [900, 300]}) == 1  # 1000 / 1 > 400 / 0.5
    assert chosen_by("fewest_prompts", [1.0, 0.5], {AWAITING_TOKENS: [600, 300]}) == 0
    # Among equals the fewest requests.
    assert chosen_by("fewest_prompts", [1.0, 1.0], {OUTSTANDING: [2, 1]}) == 1


def test_backlog_time_adds_prompts_and_outputs() -> None:
    # Outputs of 256: 10 requests that have streamed all but 160 owe 160; 1 that has streamed nothing owes 256.
    ledger: dict[int, Sequence[float]] = {OUTSTANDING: [10, 1], STREAMED_TOKENS: [2400, 0]}
    assert chosen_by("backlog_time", [1.0, 1.0], ledger) == 0
    # 1,000 prompt tokens are 0.1 s, as are 160 output tokens.
    assert chosen_by("backlog_time", [1.0, 1.0], {**ledger, AWAITING_TOKENS: [1000, 0]}) == 1
    # Another expectation: 10 requests that owe 15,600 against 1 that owes 1,800.
    slow = router("backlog_time", 2, expected_output_tokens=1800.0)
    seen = observe(2, outstanding=[10, 1])
    seen.ledger[:, STREAMED_TOKENS] = [2400, 0]
    assert slow.schedule(seen) == 1


def test_weighted_round_robin_is_exact_over_a_cycle() -> None:
    speeds = [1.0, 0.5, 0.25, 0.25]
    scheduler = router("weighted_round_robin", 4, speeds=speeds)
    chosen = [scheduler.schedule(observe(4, speeds=speeds)) for _ in range(80)]
    for start in range(0, 80, 8):
        assert Counter(chosen[start : start + 8]) == {0: 4, 1: 2, 2: 1, 3: 1}
    # Smooth: the fast one never serves more than two in a row, the next round's first behind this one's last.
    assert all(set(chosen[i : i + 3]) != {0} for i in range(77))


def homes(available: Sequence[int]) -> list[int]:
    scheduler = router("session_hash", len(available))
    return [scheduler.schedule(observe(len(available), available=available, identity=(i, 0))) for i in range(2000)]


def test_session_hash_moves_only_the_sessions_of_a_lost_replica() -> None:
    before, after = homes([1, 1, 1, 1]), homes([1, 1, 0, 1])
    assert homes([1, 1, 1, 1]) == before
    assert all(then == now for then, now in zip(before, after, strict=True) if then != 2)
    for placed, shares in ((before, 4), (after, 3)):
        counts = Counter(placed)
        assert len(counts) == shares
        assert max(counts.values()) < 1.15 * 2000 / shares
    assert Counter(now for then, now in zip(before, after, strict=True) if then == 2).keys() == {0, 1, 3}


def test_session_hash_spreads_requests_without_a_session() -> None:
    scheduler = router("session_hash", 4)
    chosen = Counter(scheduler.schedule(observe(4, identity=(-1, i))) for i in range(2000))
    assert min(chosen.values()) > 425


def test_size_split_takes_its_threshold_and_classes_from_the_workload() -> None:
    """Half of the speed of four replicas is in one; it serves the longest prompts that make up half of the work."""
    speeds = [1 / 3, 1.0, 1 / 3, 1 / 3]
    prompts = np.array([100] * 20 + [1000] * 2)
    scheduler = router("size_split", 4, speeds=speeds, prompts=prompts)
    assert {scheduler.schedule(observe(4, speeds=speeds, prompt=100)) for _ in range(12)} == {0, 2, 3}
    assert {scheduler.schedule(observe(4, speeds=speeds, prompt=101)) for _ in range(12)} == {1}
    # Inside a class the least tokens; without the class, any.
    assert scheduler.schedule(observe(4, speeds=speeds, prompt=100, prompt_tokens=[9, 0, 9, 5])) == 3
    away = observe(4, speeds=speeds, prompt=1000, available=[1, 0, 1, 1], prompt_tokens=[9, 0, 5, 9])
    assert scheduler.schedule(away) == 2


def test_size_split_takes_the_thresholds_given() -> None:
    prompts = np.array([100] * 50 + [2000] * 2 + [9000])
    scheduler = router("size_split", 6, thresholds=(500.0, 4000.0), prompts=prompts)
    classes = [{scheduler.schedule(observe(6, prompt=prompt)) for _ in range(24)} for prompt in (500, 4000, 4001)]
    assert set.union(*classes) == set(range(6))
    assert sum(map(len, classes)) == 6
    # More classes than replicas: some share, none is left out.
    few = router("size_split", 2, thresholds=(500.0, 4000.0), prompts=prompts)
    assert all(few.schedule(observe(2, prompt=prompt)) in (0, 1) for prompt in (1, 501, 9000))


def test_size_split_of_one_replica_or_an_unknown_workload_is_least_tokens() -> None:
    assert router("size_split", 1, prompts=np.array([5, 9000])).schedule(observe(1, prompt=9000)) == 0
    assert router("size_split", 3).schedule(observe(3, prompt=9000, prompt_tokens=[5, 4, 6])) == 1


def outstanding_at(moment: float, columns: dict[str, Any], replica: int) -> int:
    """Requests placed on `replica` before `moment` and not completed before it."""
    own = columns["replica"] == replica
    return int((own & (columns["arrived_at"] < moment) & (columns["completed_at"] >= moment)).sum())


@pytest.mark.parametrize("interval", [0.03, 0.25])
def test_gauges_show_what_was_at_the_last_refresh(interval: float) -> None:
    rng = np.random.default_rng(5)
    requests = request_table(
        list(np.cumsum(rng.exponential(0.01, 300))), list(rng.integers(1, 200, 300)), list(rng.integers(1, 60, 300))
    )
    simulation = Cluster(gauge_interval=interval, num_blocks=40).simulation(requests)
    seen: list[tuple[float, Floats]] = []
    while (observation := simulation.next_decision()) is not None:
        ages = observation.gauges[:, GAUGE_AGE]
        assert (ages >= 0).all() and (ages < interval + 1e-9).all()
        seen.append((observation.now - ages[0], observation.gauges.copy()))
        simulation.place(len(seen) % 2)
    columns = simulation.engine.recording(False).requests
    assert len({moment for moment, _ in seen}) > 5
    for moment, gauges in seen:
        assert moment / interval == pytest.approx(round(moment / interval))
        for replica in range(2):
            shown = gauges[replica, GAUGE_RUNNING] + gauges[replica, GAUGE_WAITING]
            assert shown == outstanding_at(round(moment / interval) * interval, columns, replica)


def test_an_event_after_the_refresh_does_not_show_in_the_gauges() -> None:
    requests = request_table([0.0, 0.0, 0.0], [32] * 3, [900] * 3)
    cluster = Cluster(gauge_interval=0.05, num_blocks=400, events=((0.06, 1, FAIL, 1.0),))
    simulation = cluster.simulation(requests)
    for _ in range(3):
        assert simulation.next_decision() is not None
        simulation.place(1)
    observation = simulation.next_decision()
    assert observation is not None and observation.now == 0.06
    assert observation.gauges[1, GAUGE_RUNNING] == 3
    assert observation.gauges[1, GAUGE_AGE] == pytest.approx(0.01)
    assert observation.ledger[1, OUTSTANDING] == 0 and not observation.available[1]
