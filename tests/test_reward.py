"""Rewards: each term by hand on a timeline of three requests; sums over whole simulations; configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import FAIL, HARDWARE, RETURN, SLOW, Cluster, request_table
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.reward.config import Schedule, shipped_rewards
from rl.reward.cost import cost_weights
from rl.reward.reward import Reward, RewardConfig, RunningStatistics, Window
from rl.simulate.demonstrations import begin_simulation, run_scheduler
from rl.simulate.rollout import BY_COST, Plans, Rollout, RunningSimulation
from vidur.data_files import data_path
from vidur.engine.foresight import (
    COST_E2E,
    COST_PARTS,
    COST_TPOT_MISSED,
    COST_TTFT,
    COST_TTFT_MISSED,
    COST_TTFT_SQUARED,
)
from vidur.engine.plug import BATCHERS
from vidur.errors import InputError
from vidur.observation import ClusterObservation
from vidur.request_generator import RequestTable
from vidur.scheduler.routers import GlobalScheduler

UNIT = 0.02
REQUEST = 200 * UNIT
BETA = 10.0


def timeline() -> Window:
    """Requests arrive at 1, 2 and 4 s, and are decided on at once, on two replicas, the second of half the speed.

    The first tokens come at 1.5, 3 and 4.25 s, the ends at 3, 8 and 6 s; that is when the simulation ends.
    """
    costs = np.zeros((3, COST_PARTS))
    costs[:, COST_E2E] = 2.0, 5.0, 3.0
    costs[:, COST_TTFT] = 0.5, 1.0, 0.5
    costs[:, COST_TTFT_SQUARED] = 0.25, 1.0, 0.5
    costs[:, COST_TTFT_MISSED] = 0.0, 1.0, 1.0
    costs[:, COST_TPOT_MISSED] = 1.0, 0.0, -1.0
    return Window(
        decided_at=np.array([1.0, 2.0, 4.0, 8.0]),
        costs=costs,
        outstanding=np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        actions=np.array([0, 1, 0]),
        waiting=np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        speeds=np.array([1.0, 0.5]),
        arrived_at=np.array([1.0, 2.0, 4.0]),
        first_token_at=np.array([1.5, 3.0, 4.25]),
        completed_at=np.array([3.0, 8.0, 6.0]),
        prompt_tokens=np.array([10, 20, 30]),
        output_tokens=np.array([4, 6, 1]),
        beta=BETA,
        time_unit=UNIT,
    )


# Each term, by hand. Intervals: [1, 2), [2, 4), [4, 8].
BY_HAND: list[tuple[dict[str, Any], list[float]]] = [
    (
        {"term": "marginal_cost", "tail_weight": 0},
        [-(e + BETA * t) / (REQUEST * 2) for e, t in ((2, 0.5), (5, 1), (3, 0.5))],
    ),
    # The square of TTFT weighs w^2 / (2,000 iterations); w is 10 at a beta of 10.
    (
        {"term": "marginal_cost", "tail_weight": 2},
        [
            -(e + BETA * t + 2 * BETA**2 * s / 40) / (REQUEST * 2)
            for e, t, s in ((2, 0.5, 0.25), (5, 1, 1), (3, 0.5, 0.5))
        ],
    ),
    # In the system: one request; two until 3 s, then one; two until 6 s, then one.
    ({"term": "sojourn_time"}, [-1 / REQUEST, -3 / REQUEST, -6 / REQUEST]),
    # Completed by 2, 4 and 8 s: 0, 1, 3.
    ({"term": "throughput", "target": 0.25, "over": "lifetime"}, [0.0, 1 / (0.25 * 4), 3 / (0.25 * 8)]),
    ({"term": "throughput", "target": 0.25}, [0 - 0.25, 1 - 0.5, 2 - 1.0]),
    # E2E: 2, 6 and 2 s; the mean so far: none, 2, 10 / 3.
    ({"term": "latency_threshold", "threshold": 1.5}, [0.0, -0.5, -5.0]),
    ({"term": "latency_threshold", "threshold": 1.5, "over": "lifetime"}, [0.0, -0.5, -(10 / 3 - 1.5)]),
    (
        {"term": "latency_threshold", "threshold": 1.5, "over": "lifetime", "shape": "soft"},
        [0.0, -(1 - np.exp(-0.5)), -(1 - np.exp(-(10 / 3 - 1.5)))],
    ),
    # Loads with the placement, over speed: (1, 0), (1, 2), (1, 2).
    ({"term": "load_balance"}, [-1.0, -1 / 3, -1 / 3]),
    ({"term": "load_balance", "measure": "std"}, [-0.5, -0.5, -0.5]),
    # Waiting at the next decision, over speed: (1, 0), (0, 2), none.
    ({"term": "load_balance", "load": "waiting"}, [-1.0, -1.0, 0.0]),
    ({"term": "load_balance", "load": "waiting", "measure": "std"}, [-0.5, -1.0, 0.0]),
    ({"term": "ttft"}, [-0.5 / REQUEST, -1 / REQUEST, -0.5 / REQUEST]),
    ({"term": "ttft", "credit": "observed"}, [-0.5 / REQUEST, -1 / REQUEST, -0.25 / REQUEST]),
    ({"term": "slo_violations"}, [-1.0, -1.0, 0.0]),
    # TTFT: 0.5, 1, 0.25 s. TPOT: 0.5 and 1 s, and none of one token.
    (
        {"term": "slo_violations", "credit": "observed", "ttft_objective": 0.4, "tpot_objective": 0.7},
        [-1.0, -1.0, -1.0],
    ),
]


def reward(*terms: dict[str, Any], **more: Any) -> Reward:
    return Reward(RewardConfig.of({"terms": list(terms), **more}, "test"))


@pytest.mark.parametrize(
    ("term", "expected"),
    BY_HAND,
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_terms_by_hand(term: dict[str, Any], expected: list[float]) -> None:
    (values,) = reward(term).terms(timeline()).values()
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("term", [term for term, _ in BY_HAND])
def test_terms_of_parts_of_a_timeline_are_parts_of_its_terms(term: dict[str, Any]) -> None:
    """Each decision alone, with what had happened by the next one, gets what it gets among the others."""
    whole, its = timeline(), reward(term)
    (together,) = its.terms(whole).values()
    for place in range(3):
        end, one = whole.decided_at[place + 1], slice(place, place + 1)
        last = place == 2
        part = replace(
            whole,
            decided_at=whole.decided_at[place : place + 2],
            waiting=whole.waiting[place : place + 2],
            costs=whole.costs[one],
            outstanding=whole.outstanding[one],
            actions=whole.actions[one],
            first_token_at=np.where((whole.first_token_at < end) | last, whole.first_token_at, np.nan),
            completed_at=np.where((whole.completed_at < end) | last, whole.completed_at, np.nan),
        )
        (alone,) = its.terms(part).values()
        assert alone == pytest.approx(together[place : place + 1], abs=1e-12)


def test_no_decisions_have_no_rewards() -> None:
    whole = timeline()
    none = replace(
        whole,
        decided_at=whole.decided_at[:1],
        waiting=whole.waiting[:1],
        costs=whole.costs[:0],
        outstanding=whole.outstanding[:0],
        actions=whole.actions[:0],
    )
    for name in shipped_rewards():
        result = Reward(RewardConfig.load(name)).evaluate(none, 0.0)
        assert len(result.clipped) == len(result.raw) == 0
        assert result.share_clipped_low == result.share_clipped_high == 0.0


class Scripted(GlobalScheduler):
    """Routes by a function of the observation."""

    def __init__(self, choose: Callable[[ClusterObservation], int]) -> None:
        self._choose = choose

    def schedule(self, observation: ClusterObservation) -> int:
        return self._choose(observation)


def by_draws(seed: int) -> Scripted:
    rng = np.random.default_rng(seed)
    return Scripted(lambda seen: int(rng.choice(np.flatnonzero(seen.available))))


def plans(cluster: Cluster) -> Plans:
    events = np.array(cluster.events, np.float64).reshape(-1, 4)
    replicas = [replace(plan, prefill_seconds=1e-5, decode_seconds=UNIT) for plan in cluster.plans()]
    return Plans(replicas, [HARDWARE], BATCHERS.get(cluster.policy), events, cluster.gauge_interval)


def workload(count: int, seed: int) -> RequestTable:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(0.002, count))
    return request_table(list(arrivals), list(rng.integers(1, 160, count)), list(rng.integers(1, 120, count)))


CLUSTER = Cluster(replicas=3, num_blocks=60)


def in_parts(cluster: Cluster, requests: RequestTable, size: int | None) -> tuple[list[Rollout], list[Window]]:
    """A simulation routed at random, `size` decisions at a time."""
    scheduler = by_draws(5)
    simulation = begin_simulation(scheduler, plans(cluster), requests, 2, BETA)
    rollouts: list[Rollout] = []
    windows: list[Window] = []
    while not rollouts or not rollouts[-1].ended:
        rollouts.append(run_scheduler(simulation, scheduler, 2, size))
        windows.append(Window.of(rollouts[-1], simulation))
    return rollouts, windows


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("size", [None, 7])
def test_costs_and_sojourn_times_add_up_to_the_cost_of_the_simulation(stages: int, size: int | None) -> None:
    cluster = replace(CLUSTER, stages=stages)
    _, windows = in_parts(cluster, workload(60, 1), size)
    last = windows[-1]
    assert not np.isnan(last.completed_at).any()
    total = last.e2e.sum() + BETA * last.ttft.sum()
    its = reward({"term": "marginal_cost", "tail_weight": 0}, {"term": "sojourn_time"})
    sums = [{name: values.sum() for name, values in its.terms(window).items()} for window in windows]
    assert sum(part["marginal_cost"] for part in sums) == pytest.approx(-total / (REQUEST * (1 + 0.1 * BETA)), rel=1e-9)
    assert sum(part["sojourn_time"] for part in sums) == pytest.approx(-last.e2e.sum() / REQUEST, rel=1e-9)


def test_requests_of_a_replica_that_fails_are_decided_on_again() -> None:
    cluster = replace(CLUSTER, events=((0.02, 0, SLOW, 3.0), (0.05, 1, FAIL, 1.0), (0.09, 1, RETURN, 1.0)))
    (rollout,), (window,) = in_parts(cluster, workload(60, 2), None)
    assert len(rollout) == len(window) > 60 and len(set(rollout.requests)) == 60
    assert rollout.masks[np.arange(len(rollout)), rollout.actions].all() and not rollout.masks[:-1].all()
    for name in shipped_rewards():
        assert np.isfinite(Reward(RewardConfig.load(name)).evaluate(window, 0.0).clipped).all()


def test_windows_hold_the_queues_of_the_next_decision() -> None:
    rollouts, windows = in_parts(CLUSTER, workload(50, 3), 10)
    for window, following in pairwise(windows):
        assert window.decided_at[-1] == following.decided_at[0]
        assert (window.waiting[-1] == following.waiting[0]).all()
        assert (window.waiting[:-1] <= window.outstanding).all() and window.waiting.max() >= 1
    assert (windows[-1].waiting[-1] == 0).all()
    assert rollouts[-1].ended and windows[-1].decided_at[-1] == np.nanmax(windows[-1].completed_at)


def test_a_scheduler_is_recorded_as_a_policy_is() -> None:
    """The policy's decisions, taken by a scheduler in another simulation, give the same rollout."""
    requests, cluster = workload(60, 4), plans(replace(CLUSTER, events=((0.05, 0, SLOW, 2.0),), gauge_interval=0.01))
    simulation = RunningSimulation.of(cluster, requests, 2, BETA)
    memory = linear_memory(simulation)
    weights = cost_weights(BETA, UNIT)
    policy = [simulation.roll(memory, 25, np.random.default_rng(1), BY_COST, True, weights) for _ in range(3)]
    replayed = RunningSimulation.of(cluster, requests, 2, BETA)
    for expected in policy:
        actions = iter(expected.actions)
        scheduler = Scripted(lambda seen, left=actions: int(next(left)))  # type: ignore[misc]
        found = run_scheduler(replayed, scheduler, 2, 25, labels=True)
        assert found.ended == expected.ended and len(found) == len(expected)
        seen = len(expected) + (0 if expected.ended else 1)
        for name in ("features", "contexts", "masks", "decided_at"):
            assert getattr(found, name)[:seen] == pytest.approx(getattr(expected, name)[:seen], rel=1e-6), name
        for name in ("actions", "costs", "all_costs", "outstanding", "requests"):
            assert (getattr(found, name) == getattr(expected, name)[: len(expected)]).all(), name


def linear_memory(simulation: RunningSimulation) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of any policy."""
    from rl.router.features import INTERACTIONS
    from rl.train.search import linear_policy

    return linear_policy(np.zeros(INTERACTIONS), np.zeros(INTERACTIONS), 2).memory(simulation.beta, True)


def test_weights_and_clips_follow_their_schedules() -> None:
    its = reward(
        {"term": "ttft", "name": "fading", "weight": [[0.2, 4.0], [0.6, 0.0]]},
        {"term": "ttft", "name": "constant", "weight": 2},
        scale=0.5,
        clip={"low": [[0.0, -1.0], [1.0, -3.0]], "high": 0.5},
    )
    window = timeline()
    one = -np.array([0.5, 1, 0.5]) / REQUEST
    for progress, weight in ((0.0, 4.0), (0.2, 4.0), (0.3, 3.0), (0.4, 2.0), (0.6, 0.0), (1.0, 0.0)):
        result = its.evaluate(window, progress)
        assert result.terms["fading"] == pytest.approx(weight * one)
        assert result.terms["constant"] == pytest.approx(2 * one)
        assert result.raw == pytest.approx((weight + 2) * one)
        assert result.scaled == pytest.approx((weight + 2) * one / 0.5)
        assert result.clipped == pytest.approx(np.maximum((weight + 2) * one / 0.5, -1.0 - 2 * progress))


def test_bounds_cut_losses_and_gains_apart() -> None:
    its = reward({"term": "throughput", "target": 0.25}, clip={"low": -0.1, "high": 0.75})
    result = its.evaluate(timeline(), 0.0)
    assert list(result.scaled) == [-0.25, 0.5, 1.0]
    assert list(result.clipped) == [-0.1, 0.5, 0.75]
    assert result.share_clipped_low == result.share_clipped_high == pytest.approx(1 / 3)
    open_above = reward({"term": "throughput", "target": 0.25}, clip={"low": -0.1}).evaluate(timeline(), 0.0)
    assert list(open_above.clipped) == [-0.1, 0.5, 1.0] and open_above.share_clipped_high == 0.0


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=20), min_size=1, max_size=6))
def test_running_statistics_are_those_of_all_values(parts: list[list[float]]) -> None:
    running = RunningStatistics()
    for part in parts:
        running.add(np.array(part))
    everything = np.concatenate([np.array(part, np.float64) for part in parts])
    if len(everything):
        assert running.mean == pytest.approx(everything.mean(), rel=1e-9, abs=1e-9)
        spread = everything.std()
        assert running.std == (pytest.approx(spread, rel=1e-6) if spread > 1e-6 else pytest.approx(1.0, abs=1.0))


@pytest.mark.parametrize("normalisation", ["std", "mean_std"])
def test_normalised_rewards_go_on_from_their_state(normalisation: str) -> None:
    _, windows = in_parts(CLUSTER, workload(60, 6), 10)
    its = reward({"term": "marginal_cost"}, normalisation=normalisation)
    for window in windows[:3]:
        its.evaluate(window, 0.0)
    other = reward({"term": "marginal_cost"}, normalisation=normalisation)
    other.restore({name: array.copy() for name, array in its.state().items()})
    for window in windows[3:]:
        assert (its.evaluate(window, 0.5).clipped == other.evaluate(window, 0.5).clipped).all()
    assert all((array == other.state()[name]).all() for name, array in its.state().items())
    everything = np.concatenate([its.evaluate(window, 0.0, learn=False).raw for window in windows])
    centre = everything.mean() if normalisation == "mean_std" else 0.0
    expected = (everything - centre) / everything.std()
    found = np.concatenate([its.evaluate(window, 0.0, learn=False).scaled for window in windows])
    assert found == pytest.approx(expected, rel=1e-9)


def test_every_shipped_reward_loads_and_is_finite() -> None:
    assert {"marginal_cost", "marginal_cost_clipped", "sojourn_time", "throughput", "shaped", "legacy"} <= set(
        shipped_rewards()
    )
    _, windows = in_parts(CLUSTER, workload(60, 7), 20)
    for name in shipped_rewards():
        its = Reward(RewardConfig.load(name))
        for progress in (0.0, 0.5, 1.0):
            for window in windows:
                result = its.evaluate(window, progress)
                assert np.isfinite(result.clipped).all() and len(result.clipped) == len(window)
                assert set(result.terms) == {term.name for term in its.config.terms}


def test_the_default_is_neither_clipped_nor_normalised() -> None:
    result = Reward(RewardConfig.load("marginal_cost")).evaluate(timeline(), 0.0)
    assert (result.clipped == result.raw).all() and result.raw[1] < 0
    clipped = RewardConfig.load("marginal_cost_clipped")
    assert clipped.clip_low == Schedule(((0.0, -4.0),)) and clipped.clip_high == Schedule(((0.0, 8.0),))


def test_the_earlier_reward_has_the_earlier_numbers() -> None:
    config = RewardConfig.load("legacy")
    assert (
        config.scale == 1.5
        and config.clip_low == Schedule(((0.0, -4.0),))
        and config.clip_high == Schedule(((0.0, 4.0),))
    )
    by_name = {term.name: term for term in config.terms}
    assert vars(by_name["throughput"].term) == {"target": 1.85, "over": "lifetime"}
    assert vars(by_name["latency_threshold"].term) == {"threshold": 6.0, "over": "lifetime", "shape": "soft"}
    weights = {name: term.weight.at(0.0) for name, term in by_name.items()}
    assert weights["latency_threshold"] == 0.85 and weights["use_balance"] == 0.2 and weights["queue_balance"] == 1.0


TERM = {"term": "ttft"}
BAD: list[tuple[Any, str]] = [
    ([], "expected keys and values"),
    ({}, "terms is missing: a list of"),
    ({"terms": []}, "terms: give at least one"),
    ({"terms": [TERM], "sacle": 2}, "unknown key in FILE: 'sacle': did you mean scale?"),
    ({"terms": [{"term": "sojourn"}]}, "terms[0]: unknown reward term 'sojourn': did you mean sojourn_time?"),
    ({"terms": [{"weight": 1}]}, "terms[0]: term is missing: give one of latency_threshold"),
    ({"terms": ["ttft"]}, "terms[0]: expected {term: NAME"),
    ({"terms": [{**TERM, "wieght": 1}]}, "unknown key in FILE: terms[0]: 'wieght': did you mean weight?"),
    ({"terms": [{**TERM, "weight": -1}]}, "terms[0]: weight must be at least 0"),
    ({"terms": [{**TERM, "weight": "much"}]}, "terms[0]: weight: expected a number, not 'much'"),
    ({"terms": [{**TERM, "weight": True}]}, "terms[0]: weight: expected a number"),
    ({"terms": [{**TERM, "weight": float("nan")}]}, "terms[0]: weight: expected a finite number"),
    ({"terms": [{**TERM, "weight": []}]}, "terms[0]: weight: a schedule needs at least one"),
    ({"terms": [{**TERM, "weight": [[0, 1], 2]}]}, "terms[0]: weight[1]: expected [progress, value]"),
    ({"terms": [{**TERM, "weight": [[0.5, 1], [0.5, 2]]}]}, "terms[0]: weight[1]: progress must increase from 0 to 1"),
    ({"terms": [{**TERM, "weight": [[0, 1], [1.5, 2]]}]}, "terms[0]: weight[1]: progress must increase from 0 to 1"),
    ({"terms": [{**TERM, "name": 3}]}, "terms[0]: name: expected text"),
    ({"terms": [TERM, TERM]}, "terms[1]: there is already a term ttft"),
    ({"terms": [{**TERM, "credit": "seen"}]}, "unknown FILE: terms[0]: credit 'seen'"),
    ({"terms": [{"term": "throughput"}]}, "terms[0]: target is missing: requests per second"),
    ({"terms": [{"term": "throughput", "target": 0}]}, "terms[0]: target must be above 0, not 0"),
    ({"terms": [{"term": "slo_violations", "ttft_objective": 2}]}, "foreseen counts misses of 1 s and 0.05 s"),
    ({"terms": [TERM], "scale": 0}, "scale must be above 0"),
    ({"terms": [TERM], "normalisation": "mean"}, "unknown FILE: normalisation 'mean': did you mean mean_std?"),
    ({"terms": [TERM], "clip": {"lo": 1}}, "unknown key in FILE: clip: 'lo': did you mean low?"),
    ({"terms": [TERM], "clip": 4}, "clip: expected keys and values, not 4"),
    (
        {"terms": [TERM], "clip": {"low": 1, "high": [[0, 2], [0.5, 0.5]]}},
        "low must be below high, but at progress 0.5",
    ),
]


@pytest.mark.parametrize(("document", "message"), BAD)
def test_bad_rewards_are_refused_in_one_line(document: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        RewardConfig.of(document, "test", "FILE")
    assert message in str(error.value) and "\n" not in str(error.value) and "FILE" in str(error.value)


def test_files_that_are_no_rewards(tmp_path: Path) -> None:
    flag = "--ppo_global_scheduler_config_reward"
    cases = {
        "marginal_cots": f"unknown {flag} (a name in data/rewards, or a YAML file) 'marginal_cots': did you mean marg",
        str(tmp_path / "none.yaml"): f"{flag} {tmp_path / 'none.yaml'}: No such file",
        str(tmp_path): f"{flag} {tmp_path}: Is a directory",
    }
    for text, file in (("terms: [", "broken"), ("scale: 1\nscale: 2\n", "twice"), ("- 1\n", "list")):
        (tmp_path / f"{file}.yaml").write_text(text)
    (tmp_path / "latin.yaml").write_bytes("terms: é".encode("latin-1"))
    cases[str(tmp_path / "broken.yaml")] = "broken.yaml, line 1: not YAML"
    cases[str(tmp_path / "twice.yaml")] = "twice.yaml, line 2: the key scale is given twice"
    cases[str(tmp_path / "list.yaml")] = "list.yaml: expected keys and values"
    cases[str(tmp_path / "latin.yaml")] = "latin.yaml: not a text file in UTF-8"
    for name, message in cases.items():
        with pytest.raises(InputError) as error:
            RewardConfig.load(name)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((data_path("rewards") / "shaped.yaml").read_text())
    assert replace(RewardConfig.load(str(path)), name="shaped") == RewardConfig.load("shaped")


def test_the_variants_of_the_study_load() -> None:
    """Those of docs/rewards.md."""
    folder = Path(__file__).resolve().parent.parent / "docs" / "examples" / "rewards"
    files = sorted(folder.glob("legacy_*.yaml"))
    assert len(files) >= 8
    for file in files:
        assert RewardConfig.load(str(file)).name == file.stem
