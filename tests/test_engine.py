"""The engine: what must hold for any cluster and workload under every batching policy."""

from __future__ import annotations

import numpy as np
import pytest
from clusters import DRAIN, FAIL, JOIN, RETURN, SLOW, Cluster, request_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidur.engine.recording import FINISHED, REFUSED, Recording
from vidur.engine.simulation import Simulation
from vidur.request_generator import RequestTable

POLICIES = ("sarathi", "vllm", "orca", "faster_transformer", "lightllm", "vllm_v1")
ROUTERS = (
    "round_robin", "random", "lor", "power_of_two", "least_kv_cache", "weighted_round_robin", "session_hash",
    "lor_by_speed", "fewest_prompts", "backlog_time",
)  # fmt: skip


@st.composite
def clusters(draw: st.DrawFn, policy: str) -> Cluster:
    block_size = 1 if policy == "lightllm" else draw(st.sampled_from([1, 4, 16]))
    blocks = draw(st.integers(8, 80)) * (16 if block_size == 1 else 4 if block_size == 4 else 1)
    return Cluster(
        policy=policy,
        replicas=draw(st.integers(1, 3)),
        stages=1 if policy == "lightllm" else draw(st.integers(1, 3)),
        num_blocks=blocks,
        block_size=block_size,
        max_batch=draw(st.integers(1, 8)),
        token_limit=draw(st.integers(16, 400)),
        router=draw(st.sampled_from(ROUTERS)),
        gauge_interval=draw(st.sampled_from([0.0, 0.01, 1.0])),
    )


@st.composite
def workloads(draw: st.DrawFn) -> RequestTable:
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    gap = draw(st.sampled_from([0.0, 0.001, 0.01, 0.2]))
    arrivals = np.cumsum(rng.exponential(gap, count)) if gap else np.zeros(count)
    longest = draw(st.sampled_from([4, 60, 500]))
    return request_table(
        list(arrivals), list(rng.integers(1, longest + 1, count)), list(rng.integers(1, longest + 1, count))
    )


def check_all_is_returned(simulation: Simulation) -> None:
    """Every block, queue and count is back where it began."""
    for replica in simulation.engine.state.replicas:
        for field in ("waiting", "ready", "admitted", "in_flight", "allocated"):
            assert replica[field] == 0, field
        for field in ("wait_head", "wait_tail", "ledger_head", "ledger_tail", "await_head", "await_tail"):
            assert replica[field] == -1, field
    assert (simulation.engine.books.ledger[:, :5] == 0).all()
    assert (simulation.engine.requests["blocks"] == 0).all()


def check_requests(simulation: Simulation, recording: Recording) -> None:
    """Each request was refused for its length, or finished with exactly its tokens, its times in order."""
    requests, engine = recording.requests, simulation.engine
    total = requests["num_prefill_tokens"] + requests["num_decode_tokens"]
    plan = engine.state.replicas[0]
    too_long = (total > plan.max_request_tokens) | (requests["num_prefill_tokens"] > plan.max_prompt_tokens)
    assert (requests["status"] == np.where(too_long, REFUSED, FINISHED)).all()
    done = ~too_long
    assert (engine.requests["streamed"][done] == requests["num_decode_tokens"][done]).all()
    assert (engine.requests["processed"][done] == total[done]).all()
    for before, after in zip(
        ("arrived_at", "scheduled_at", "prefill_completed_at"),
        ("scheduled_at", "prefill_completed_at", "completed_at"),
        strict=True,
    ):
        assert (requests[before][done] <= requests[after][done]).all()
    if plan.stages == 1 and requests["num_reroutes"].sum() == 0:
        spent = requests["execution_time"] + requests["preempted_time"] + requests["scheduled_at"]
        assert np.allclose(spent[done], requests["completed_at"][done])


def check_rows(simulation: Simulation, recording: Recording) -> None:
    """Memory is never overdrawn, a stage does one batch at a time, and work is done once but for counted restarts."""
    rows = recording.batches
    plan = simulation.engine.state.replicas[0]
    assert (rows["kv_blocks"] <= plan.num_blocks).all() and (rows["kv_blocks"] >= 0).all()
    assert (rows["batch_size"] >= 1).all() and (rows["count"] >= 1).all() and (rows["iteration_time"] > 0).all()
    for replica in np.unique(rows["replica"]):
        for stage in np.unique(rows["stage"]):
            own = (rows["replica"] == replica) & (rows["stage"] == stage)
            start = rows["start"][own]
            end = start + rows["count"][own] * rows["iteration_time"][own]
            assert (start[1:] >= end[:-1] - 1e-9).all()
    requests = recording.requests
    done = requests["status"] == FINISHED
    once = (requests["num_prefill_tokens"] + requests["num_decode_tokens"] - 1)[done].sum()
    first = rows["stage"] == 0
    worked = (rows["num_tokens"] * rows["count"])[first].sum()
    if requests["num_restarts"].sum() == 0:
        assert worked == once
    else:
        assert worked > once


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_policy_conserves_blocks_tokens_and_time(policy: str, data: st.DataObject) -> None:
    cluster = data.draw(clusters(policy))
    simulation, recording = cluster.run(data.draw(workloads()))
    check_all_is_returned(simulation)
    check_requests(simulation, recording)
    check_rows(simulation, recording)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_policy_survives_failures_and_slow_replicas(policy: str, data: st.DataObject) -> None:
    cluster = data.draw(clusters(policy))
    moments = sorted(data.draw(st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4)))
    replica = cluster.replicas - 1
    events = (
        (moments[0], replica, SLOW, 3.0),
        (moments[1], replica, FAIL, 1.0),
        (moments[2], replica, RETURN, 1.0),
        (moments[3], 0, DRAIN, 1.0),
        (moments[3] + 1.0, 0, RETURN, 1.0),
    )
    cluster = Cluster(**{**vars(cluster), "events": events})
    simulation, recording = cluster.run(data.draw(workloads()))
    check_all_is_returned(simulation)
    check_requests(simulation, recording)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_decision_by_decision_gives_the_bits_of_the_compiled_loop(policy: str, data: st.DataObject) -> None:
    cluster = Cluster(**{**vars(data.draw(clusters(policy))), "router": "lor"})
    requests = data.draw(workloads())
    _, whole = cluster.run(requests)
    stepped = cluster.simulation(requests)
    last = -1
    while (observation := stepped.next_decision()) is not None:
        outstanding = [observation.ledger[(last + 1 + i) % cluster.replicas, 0] for i in range(cluster.replicas)]
        last = (last + 1 + int(np.argmin(outstanding))) % cluster.replicas
        for replica in range(cluster.replicas):
            placed = observation.placed(replica)
            assert len(placed.request) == observation.ledger[replica, 0]
            assert placed.prompt_tokens.sum() == observation.ledger[replica, 2]
            assert placed.streamed_tokens.sum() == observation.ledger[replica, 4]
        stepped.place(last)
    for name, column in whole.requests.items():
        assert np.array_equal(column, stepped.engine.recording(False).requests[name], equal_nan=True), name


def test_a_slow_replica_takes_its_factor_longer() -> None:
    requests = request_table([0.0], [32], [64])
    plain = Cluster(replicas=1).run(requests)[1].requests["completed_at"][0]
    slow = Cluster(replicas=1, events=((0.0, 0, SLOW, 3.0),)).run(requests)[1].requests["completed_at"][0]
    assert slow == pytest.approx(3.0 * plain)


def test_a_failed_replica_hands_its_requests_over_from_the_start() -> None:
    requests = request_table([0.0, 0.0], [32, 32], [500, 500])
    cluster = Cluster(num_blocks=200, events=((0.05, 1, FAIL, 1.0),))
    _, recording = cluster.run(requests)
    assert list(recording.requests["num_reroutes"]) == [0, 1]
    assert list(recording.requests["replica"]) == [0, 0]
    assert recording.requests["scheduled_at"][1] >= 0.05
    assert recording.routing_decisions == 3


def test_a_failure_leaves_the_blocks_of_other_replicas_alone() -> None:
    requests = request_table([0.001 * i for i in range(8)], [40] * 8, [100] * 8)
    cluster = Cluster(policy="faster_transformer", max_batch=1, num_blocks=64, events=((0.02, 1, FAIL, 1.0),))
    simulation, recording = cluster.run(requests)
    check_all_is_returned(simulation)
    assert recording.requests["num_reroutes"].sum() == 4


def test_requests_wait_for_a_replica_when_none_is_there() -> None:
    requests = request_table([0.0, 0.1], [8, 8], [4, 4])
    _, recording = Cluster(replicas=1, events=((0.0, 0, FAIL, 1.0), (5.0, 0, RETURN, 1.0))).run(requests)
    assert (recording.requests["scheduled_at"] >= 5.0).all()
    assert (recording.requests["status"] == FINISHED).all()


def test_requests_that_no_replica_ever_takes_are_left_unfinished() -> None:
    _, recording = Cluster(replicas=1, events=((0.0, 0, FAIL, 1.0),)).run(request_table([1.0], [8], [4]))
    assert recording.partial and list(recording.requests["status"]) == [0]


def test_the_time_limit_cuts_the_run() -> None:
    requests = request_table([0.0, 10.0], [32, 32], [500, 500])
    _, recording = Cluster(num_blocks=200, replicas=1, time_limit=0.05).run(requests)
    assert recording.partial
    assert recording.end_time <= 0.05
    assert np.isnan(recording.requests["completed_at"]).all()
    assert recording.requests["scheduled_at"][0] == 0.0 and np.isnan(recording.requests["scheduled_at"][1])


def test_a_replica_that_joins_later_gets_nothing_before() -> None:
    requests = request_table([0.0, 0.1, 2.0, 2.1], [8] * 4, [4] * 4)
    plans = Cluster(events=((1.0, 1, JOIN, 1.0),))
    simulation = plans.simulation(requests)
    simulation.engine.books.available[1] = 0
    simulation.engine.clock.num_available = 1
    simulation.run(__import__("vidur.scheduler.routers.round_robin", fromlist=["x"]).choose_round_robin)
    assert list(simulation.engine.recording(False).requests["replica"]) == [0, 0, 1, 0]
