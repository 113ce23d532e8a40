"""What a placement costs: against simulations of the whole future with and without it; and what routers see of queues
and paces, against the engine's own records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from clusters import FAIL, HARDWARE, RETURN, SLOW, Cluster, request_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl.router.encoder import StateEncoder
from rl.router.policy import PolicyWeights
from rl.simulate.rollout import BY_COST, OBJECTIVES, Plans, Rollout, RunningSimulation
from rl.simulate.step import foresee_callback
from vidur import observation as seen
from vidur.engine.compile import allocating_kernel
from vidur.engine.engine import Engine
from vidur.engine.foresight import (
    COST_E2E,
    COST_PARTS,
    COST_TPOT_MISSED,
    COST_TTFT,
    COST_TTFT_EXCESS,
    COST_TTFT_MISSED,
    COST_TTFT_SQUARED,
    foresee,
)
from vidur.engine.plan import EngineOptions
from vidur.engine.plug import BATCHERS as BATCHING
from vidur.engine.plug import form_batch_callback
from vidur.engine.recording import FINISHED
from vidur.engine.simulation import Simulation
from vidur.engine.state import open_state
from vidur.observation import Floats
from vidur.request_generator import RequestTable

POLICIES = ("sarathi", "vllm", "vllm_v1", "orca")

foresee_by_handle = foresee_callback.call


@allocating_kernel
def foresee_at(
    handle: int, replica: int, request: int, keep: bool, batcher: int, objectives: Floats, projected: Floats,
    costs: Floats, address: int,
) -> bool:  # fmt: skip
    arguments = (open_state(address), replica, request, keep, batcher, objectives, projected, costs)
    return foresee_by_handle(handle, arguments)  # type: ignore[no-any-return]


# Enough memory, and so little that requests are preempted.
AMPLE, STARVED = 400, 20


def workload(count: int, seed: int, gap: float = 0.02) -> RequestTable:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(gap, count))
    return request_table(list(arrivals), list(rng.integers(1, 160, count)), list(rng.integers(1, 120, count)))


def cost_parts(requests: Any, objectives: tuple[float, float] = OBJECTIVES) -> Floats:
    """The parts of the cost of finished requests, each written out."""
    ttft = requests["first_token_at"] - requests["arrived_at"]
    tpot = (requests["completed_at"] - requests["first_token_at"]) / np.maximum(requests["output"] - 1, 1)
    parts = np.zeros(COST_PARTS)
    parts[COST_E2E] = (requests["completed_at"] - requests["arrived_at"]).sum()
    parts[COST_TTFT] = ttft.sum()
    parts[COST_TTFT_SQUARED] = (ttft**2).sum()
    parts[COST_TTFT_EXCESS] = np.maximum(ttft - objectives[0], 0).sum()
    parts[COST_TTFT_MISSED] = (ttft > objectives[0]).sum()
    parts[COST_TPOT_MISSED] = (tpot > objectives[1]).sum()
    return parts


def total_cost(engine: Engine) -> Floats:
    return cost_parts(engine.requests[engine.requests["status"] == FINISHED])


def run_to_end(cluster: Cluster, requests: RequestTable, choices: list[int]) -> Floats:
    """The cost of requests that go to these replicas, all of them, and then no more arrive."""
    simulation = cluster.simulation(requests)
    for choice in choices:
        assert simulation.next_decision() is not None
        simulation.place(choice)
    assert simulation.next_decision() is None
    assert (simulation.engine.requests["status"] == FINISHED).all()
    return total_cost(simulation.engine)


def first(requests: RequestTable, count: int) -> RequestTable:
    columns = requests.arrived_at, requests.num_prefill_tokens, requests.num_decode_tokens
    return request_table(*(list(column[:count]) for column in columns))


def foresee_now(
    simulation: Simulation, policy: str, replica: int, projected: Floats, keep: bool = False
) -> tuple[bool, Floats]:
    """foresee of the pending request on `replica`."""
    costs = np.zeros(COST_PARTS)
    handle = form_batch_callback.handle(BATCHING.get(policy).form_batch)
    request = int(simulation.engine.clock.current)
    address = simulation.engine.address
    foreseen = foresee_callback.handle(foresee)
    ok = foresee_at(foreseen, replica, request, keep, handle, np.array(OBJECTIVES), projected, costs, address)
    return bool(ok), costs


def copies(engine: Engine) -> list[bytes]:
    """All that the engine changes, but for the scratch space of pipelines."""
    return [array.tobytes() for name, array in engine.snapshot().items() if name != "followers"]


@pytest.mark.parametrize("blocks", [AMPLE, STARVED])
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_marginal_cost_is_the_difference_of_two_simulations_of_the_future(
    policy: str, stages: int, blocks: int
) -> None:
    """At every third decision of a run, for every replica; and looking changes no bit of the engine."""
    cluster = Cluster(policy=policy, replicas=2, stages=stages, num_blocks=blocks, record_rows=False)
    limit = int(cluster.plans()[0].max_request_tokens)
    requests = workload(24, seed=7, gap=0.004)
    cut = np.minimum(requests.num_prefill_tokens + requests.num_decode_tokens, limit) - requests.num_decode_tokens
    requests = request_table(
        list(requests.arrived_at), list(np.maximum(cut, 1)), list(np.minimum(requests.num_decode_tokens, limit - 1))
    )
    choices: list[int] = []
    simulation = cluster.simulation(requests)
    projected = np.full((len(requests), 2), np.nan)
    checked = 0
    while simulation.next_decision() is not None:
        count = len(choices)
        if count % 3 == 2:
            before = copies(simulation.engine)
            without = run_to_end(cluster, first(requests, count), choices)
            for replica in range(2):
                fine, costs = foresee_now(simulation, policy, replica, projected)
                assert fine
                with_it = run_to_end(cluster, first(requests, count + 1), [*choices, replica])
                assert costs == pytest.approx(with_it - without, rel=1e-9, abs=1e-9)
                checked += 1
            assert copies(simulation.engine) == before
        choices.append(count * 7 % 5 % 2)
        assert foresee_now(simulation, policy, choices[-1], projected, keep=True)[0]
        simulation.place(choices[-1])
    assert checked == 16
    preempted = simulation.engine.requests["restarts"].sum() + simulation.engine.state.replicas["preemptions"].sum()
    assert blocks == AMPLE or policy == "orca" or preempted > 0


def test_a_request_that_the_replica_can_never_hold_is_not_foreseen() -> None:
    cluster = Cluster(num_blocks=STARVED)
    simulation = cluster.simulation(request_table([0.0], [5000], [2]))
    assert simulation.next_decision() is not None
    before = copies(simulation.engine)
    assert not foresee_now(simulation, "sarathi", 0, np.full((1, 2), np.nan))[0]
    assert copies(simulation.engine) == before


def some_weights(depth: int, seed: int = 0) -> PolicyWeights:
    """A random policy, whose choices are all over the place."""
    rng = np.random.default_rng(seed)
    spec = StateEncoder(1, depth).spec
    interactions = sum(feature.normalisation == "none" for feature in spec.replica)
    features, context = len(spec.replica) - interactions, len(spec.context)
    shapes = [(features, 16), (context, 16), (3 * features, 16), (16,), (16, 8), (8,), (8,)]
    return PolicyWeights(*(0.2 * rng.normal(size=shape) for shape in shapes),
                         *(0.1 * rng.normal(size=interactions) for _ in range(2)))  # fmt: skip


def roll(cluster: Cluster, requests: RequestTable, mode: int | None = None) -> tuple[RunningSimulation, Rollout]:
    """A whole simulation as one rollout: by a random policy, or by the least marginal cost."""
    events = np.array(cluster.events, np.float64).reshape(-1, 4)
    hardware = [replace(HARDWARE, time_factor=1.0 / speed) for speed in cluster.speeds]
    plans = [replace(plan, hardware=number % len(hardware), decode_seconds=0.03, prefill_seconds=1e-4)
             for number, plan in enumerate(cluster.plans())]  # fmt: skip
    shared = Plans(plans, hardware, BATCHING.get(cluster.policy), events, cluster.gauge_interval)
    simulation = RunningSimulation.of(shared, requests, 2, 10.0)
    memory, rng = some_weights(2).memory(10.0, True), np.random.default_rng(1)
    if mode is None:
        return simulation, simulation.roll(memory, len(requests) + 1, rng)
    weights = np.array([1.0, 5.0, 0.0, 0.0, 0.0, 0.0])
    return simulation, simulation.roll(memory, len(requests) + 1, rng, mode, True, weights)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stages=st.integers(1, 2),
    blocks=st.sampled_from([AMPLE, 40]),
    seed=st.integers(0, 1 << 20),
    gap=st.sampled_from([0.0, 0.003, 0.02]),
)
def test_marginal_costs_add_up_to_the_cost_of_the_simulation(
    policy: str, stages: int, blocks: int, seed: int, gap: float
) -> None:
    cluster = Cluster(policy=policy, replicas=3, stages=stages, num_blocks=blocks, speeds=(1.0, 0.5))
    simulation, rollout = roll(cluster, workload(40, seed, gap))
    assert rollout.ended and len(rollout) == 40
    assert rollout.costs.sum(0) == pytest.approx(total_cost(simulation.engine), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_an_event_changes_is_no_placements_doing(policy: str) -> None:
    """The cost of each placement after a replica slowed down is what the placement changes from then on: it agrees
    with simulations of the future, in which the replica is slow already."""
    slow = ((0.05, 1, SLOW, 4.0),)
    cluster = Cluster(policy=policy, replicas=2, num_blocks=AMPLE, events=slow)
    requests = workload(20, seed=3, gap=0.01)
    _, rollout = roll(cluster, requests)
    for count in range(20):
        choices = rollout.actions[: count + 1].tolist()
        with_it = run_to_end(cluster, first(requests, count + 1), choices)
        without = run_to_end(cluster, first(requests, count), choices[:-1])
        if rollout.decided_at[count] > 0.05:
            assert rollout.costs[count] == pytest.approx(with_it - without, rel=1e-6, abs=1e-6)


def test_the_least_marginal_cost_is_chosen_and_is_the_chosen_ones_cost() -> None:
    _, rollout = roll(Cluster(replicas=3, num_blocks=AMPLE, speeds=(1.0, 0.3)), workload(60, 5, 0.005), BY_COST)
    weighted = rollout.all_costs @ np.array([1.0, 5.0, 0.0, 0.0, 0.0, 0.0])
    assert np.array_equal(rollout.actions, weighted.argmin(1))
    chosen = np.take_along_axis(rollout.all_costs, rollout.actions[:, None, None], 1)[:, 0]
    assert chosen == pytest.approx(rollout.costs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("policy", ["sarathi", "vllm_v1"])
def test_a_rollout_in_parts_is_the_rollout(policy: str) -> None:
    """Through a failure too; and from a snapshot it goes on as it did."""
    events = ((0.1, 1, FAIL, 1.0), (0.3, 1, RETURN, 1.0))
    cluster = Cluster(policy=policy, replicas=2, num_blocks=60, events=events)
    requests = workload(40, 11, 0.01)
    _, whole = roll(cluster, requests)
    shared = Plans([replace(plan, decode_seconds=0.03, prefill_seconds=1e-4) for plan in cluster.plans()], [HARDWARE],
                   BATCHING.get(policy), np.array(events), 0.0)  # fmt: skip
    simulation = RunningSimulation.of(shared, requests, 2, 10.0)
    memory, rng = some_weights(2).memory(10.0, True), np.random.default_rng(1)
    parts = [simulation.roll(memory, 7, rng)]
    kept = simulation.snapshot()
    while not parts[-1].ended:
        parts.append(simulation.roll(memory, 7, rng))
    for name in ("actions", "costs", "log_probabilities", "requests"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)), name
    simulation.restore(kept)
    again = np.random.default_rng(1)
    again.random(7)
    assert np.array_equal(simulation.roll(memory, 7, again).costs, parts[1].costs)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("policy", [*POLICIES, "lightllm", "faster_transformer"])
def test_the_ledger_is_what_the_placed_requests_say(policy: str, stages: int) -> None:
    """Sums and queue heads at every decision, through preemptions, a failure and a return."""
    blocks, size = (640, 1) if policy == "lightllm" else (40, 16)
    depth = 3
    cluster = Cluster(policy=policy, replicas=2, stages=1 if policy == "lightllm" else stages, num_blocks=blocks,
                      block_size=size, events=((0.08, 1, FAIL, 1.0), (0.12, 1, RETURN, 1.0)))  # fmt: skip
    options = EngineOptions(record_rows=False, queue_depth=depth)
    engine = Engine(workload(60, 2, 0.003), cluster.plans(), [HARDWARE], np.array(cluster.events), options)
    simulation = Simulation(engine, BATCHING.get(policy))
    count, waited = 0, 0
    while (observed := simulation.next_decision()) is not None:
        for replica in range(2):
            row, placed = observed.ledger[replica], observed.placed(replica)
            awaiting = ~placed.has_first_token
            assert row[seen.OUTSTANDING] == len(placed.request)
            assert row[seen.AWAITING] == awaiting.sum()
            assert row[seen.PROMPT_TOKENS] == placed.prompt_tokens.sum()
            assert row[seen.AWAITING_TOKENS] == placed.prompt_tokens[awaiting].sum()
            assert row[seen.STREAMED_TOKENS] == placed.streamed_tokens.sum()
            ages = np.zeros(depth)
            prompts = np.zeros(depth)
            heads = np.flatnonzero(awaiting)[:depth]
            ages[: len(heads)] = observed.now - placed.arrived_at[heads]
            prompts[: len(heads)] = placed.prompt_tokens[heads]
            assert np.array_equal(row[seen.QUEUE_AGE :: seen.QUEUE_COLUMNS], ages)
            assert np.array_equal(row[seen.QUEUE_PROMPT :: seen.QUEUE_COLUMNS], prompts)
            waited += len(heads)
        available = np.flatnonzero(observed.available)
        simulation.place(int(available[count % len(available)]))
        count += 1
    assert count > 60 and waited >= 10


def test_the_pace_of_streams_is_the_average_of_the_iterations_with_decodes() -> None:
    """From the recorded batches: each iteration that decodes gives every stream a token."""
    cluster = Cluster(replicas=2, num_blocks=AMPLE)
    simulation = cluster.simulation(workload(40, 4, 0.03))
    choices = 0
    noted: list[tuple[float, Floats]] = []
    while (observed := simulation.next_decision()) is not None:
        noted.append((observed.now, observed.ledger[:, seen.ITL_EWMA].copy()))
        simulation.place(choices % 2)
        choices += 1
    rows = simulation.engine.recording(False).batches
    assert noted[0][1].tolist() == [0.0, 0.0]
    for now, found in noted:
        for replica in range(2):
            average = 0.0
            for row in np.flatnonzero((rows["replica"] == replica) & (rows["decode_size"] > 0)):
                seconds, count = rows["iteration_time"][row], rows["count"][row]
                if rows["start"][row] + seconds * count < now:
                    weight = 1.0 if average == 0.0 else min(1.0, seen.ITL_EWMA_WEIGHT * count)
                    average += weight * (seconds - average)
            assert found[replica] == pytest.approx(average, rel=1e-9)
    assert found[0] > 0
