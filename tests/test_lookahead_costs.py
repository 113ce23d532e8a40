"""lookahead's costs against closed forms, and against simulations of the future."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from clusters import FAIL, HARDWARE, RETURN, SLOW, Cluster, request_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from observations import hardware, observe
from test_engine import POLICIES, check_all_is_returned, check_requests, clusters, workloads

from vidur.engine.plug import BATCHERS as BATCHING
from vidur.engine.recording import Recording
from vidur.observation import (
    COMPLETION_COLUMNS,
    HISTOGRAM_COUNTS,
    HISTOGRAM_SUMS,
    Floats,
    PlacedRequests,
    output_bin,
)
from vidur.scheduler.routers import RouterContext, lookahead
from vidur.scheduler.routers.lookahead import LookaheadScheduler, ReplicaModel, conditional_output

BETA, PRIOR = 5.0, 40.0


def scheduler(cluster: Cluster) -> LookaheadScheduler:
    model = ReplicaModel(cluster.plans(), [HARDWARE], BATCHING.get(cluster.policy))
    context = RouterContext(hardware(cluster.replicas), np.random.default_rng(1), simulator=model)
    return LookaheadScheduler(context, BETA, PRIOR)


def queue(prompts: Sequence[int], streamed: Sequence[int] | None = None) -> PlacedRequests:
    """Outstanding requests, placed in this order; those that have streamed have their first token."""
    count = len(prompts)
    tokens = np.zeros(count, np.int64) if streamed is None else np.array(streamed, np.int64)
    return PlacedRequests(
        request=np.arange(count),
        arrived_at=np.zeros(count),
        placed_at=np.zeros(count),
        prompt_tokens=np.array(prompts, np.int64),
        streamed_tokens=tokens,
        has_first_token=tokens > 0,
    )


def cost_of(recording: Recording) -> float:
    """sum(E2E) + beta * sum(TTFT)."""
    columns = recording.requests
    ttft = columns["prefill_completed_at"] - columns["arrived_at"]
    return float((columns["completed_at"] - columns["arrived_at"]).sum() + BETA * ttft.sum())


def together(cluster: Cluster, prompts: Sequence[int], output: int) -> float:
    """The cost of requests that all arrive at 0, simulated."""
    count = len(prompts)
    return cost_of(cluster.run(request_table([0.0] * count, list(prompts), [output] * count))[1])


def test_it_avoids_the_long_prefill_queue() -> None:
    """Two requests each, with equal prompts: but those of replica 0 are yet to be read."""
    cluster = Cluster(replicas=2, num_blocks=200)
    seen = observe(2, prompt=200, placed=[queue([900, 900]), queue([900, 900], streamed=[30, 30])])
    costs = scheduler(cluster).marginal_costs(seen)
    assert costs[1] < 0.7 * costs[0]
    assert scheduler(cluster).schedule(seen) == 1


def test_equal_replicas_take_turns_and_one_that_is_away_costs_infinity() -> None:
    router = scheduler(Cluster(replicas=4))
    seen = observe(4, available=[1, 0, 1, 1])
    assert [router.schedule(seen) for _ in range(6)] == [0, 2, 3, 0, 2, 3]
    assert list(np.isinf(router.marginal_costs(seen))) == [False, True, False, False]


def test_an_empty_replica_costs_the_prefill_and_the_decodes() -> None:
    """In closed form: a prompt of one chunk, then a token at a time over a KV-cache that grows."""
    prompt, output = 100, int(PRIOR)
    tokens, decode, prefill = HARDWARE.token_seconds(), HARDWARE.decode_seconds(), HARDWARE.prefill_seconds()
    ttft = tokens[prompt] + prefill[0, prompt]
    step = HARDWARE.tables.kv_granularity
    decodes = sum(tokens[1] + decode[1, -(-(prompt + done) // step)] for done in range(1, output))
    cost = scheduler(Cluster(replicas=1)).marginal_costs(observe(1, prompt=prompt))[0]
    assert cost == pytest.approx(ttft + decodes + BETA * ttft, rel=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_marginal_cost_is_the_difference_of_two_simulations(policy: str) -> None:
    """Nothing has begun: the future is a simulation of requests that all arrive now, with and without one more."""
    blocks, size = (512, 1) if policy == "lightllm" else (32, 16)
    cluster = Cluster(policy=policy, replicas=1, num_blocks=blocks, block_size=size)
    waiting, prompt, output = [90, 20, 110, 64, 7, 128, 33, 80, 80, 5], 70, int(PRIOR)
    cost = scheduler(cluster).marginal_costs(observe(1, prompt=prompt, placed=[queue(waiting)]))[0]
    expected = together(cluster, [*waiting, prompt], output) - together(cluster, waiting, output)
    assert cost == pytest.approx(expected, rel=1e-9)


def test_a_replica_is_loaded_anew_for_each_question() -> None:
    router = scheduler(Cluster(replicas=1))
    busy = observe(1, prompt=50, placed=[queue([100, 300, 20], streamed=[9, 1, 0])])
    first = router.marginal_costs(busy)[0]
    idle = router.marginal_costs(observe(1, prompt=50))[0]
    assert idle < first
    # Beyond the room of the first engine, then back.
    crowd = observe(1, prompt=50, placed=[queue([4] * 300)])
    assert router.marginal_costs(crowd)[0] > first
    assert router.marginal_costs(busy)[0] == first
    assert router.marginal_costs(observe(1, prompt=50))[0] == idle


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("policy", ["sarathi", "vllm", "vllm_v1", "orca"])
def test_with_the_true_lengths_it_foresees_what_happens(
    policy: str, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a run, the cost it expects of an arrival is about what the arrival turns out to cost."""
    arrivals, prompts = [0.0, 0.0, 0.01, 0.01, 0.02, 0.03], [100, 60, 90, 30, 80, 110]
    outputs = [40, 200, 90, 150, 60, 120]
    cluster = Cluster(policy=policy, replicas=1, stages=stages, num_blocks=400)
    requests = request_table(arrivals, prompts, outputs)
    without = request_table(arrivals[:-1], prompts[:-1], outputs[:-1])
    expected = cost_of(cluster.run(requests)[1]) - cost_of(cluster.run(without)[1])
    simulation = cluster.simulation(requests)
    for _ in range(5):
        assert simulation.next_decision() is not None
        simulation.place(0)
    seen = simulation.next_decision()
    assert seen is not None
    lengths = np.array(outputs)[np.append(seen.placed(0).request, 5)]
    monkeypatch.setattr(lookahead, "conditional_output", lambda completions, streamed, prior: lengths)
    # It does not see how far the iteration under way is.
    assert scheduler(cluster).marginal_costs(seen)[0] == pytest.approx(expected, rel=0.15)


def completed(lengths: Sequence[int]) -> Floats:
    completions = np.zeros(COMPLETION_COLUMNS)
    for length in lengths:
        completions[HISTOGRAM_COUNTS + output_bin(length)] += 1
        completions[HISTOGRAM_SUMS + output_bin(length)] += length
    return completions


def test_expected_lengths_are_the_mean_of_those_that_went_on_longer() -> None:
    expected = conditional_output(completed([100] * 5000 + [1000] * 5000), np.arange(1200), 256.0)
    assert expected[0] == pytest.approx(550, abs=1)
    assert (np.abs(expected[110:900] - 1000) <= 1).all()
    assert (np.diff(expected) >= 0).all()
    assert expected[1199] == 1199 + 256


@given(
    lengths=st.lists(st.integers(1, 100_000), max_size=60),
    streamed=st.lists(st.integers(0, 200_000), min_size=1, max_size=30),
    prior=st.floats(0.0, 5000.0),
)
def test_expected_lengths_are_one_token_more_at_least_and_no_more_than_the_longest(
    lengths: list[int], streamed: list[int], prior: float
) -> None:
    seen = np.array(streamed, np.int64)
    expected = conditional_output(completed(lengths), seen, prior)
    assert (expected >= seen + 1).all()
    assert (expected <= np.maximum(np.maximum(np.rint(seen + prior), max(lengths, default=0)), seen + 1)).all()


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_it_routes_any_workload_on_any_cluster(policy: str, data: st.DataObject) -> None:
    drawn = data.draw(clusters(policy))
    moments = sorted(data.draw(st.lists(st.floats(0.0, 0.5), min_size=3, max_size=3)))
    lost = drawn.replicas - 1
    events = ((moments[0], lost, SLOW, 3.0), (moments[1], lost, FAIL, 1.0), (moments[2], lost, RETURN, 1.0))
    cluster = Cluster(**{**vars(drawn), "events": events})
    simulation = cluster.simulation(data.draw(workloads()))
    router = scheduler(cluster)
    while (observation := simulation.next_decision()) is not None:
        costs = router.marginal_costs(observation)
        assert not np.isnan(costs).any() and np.isinf(costs[~observation.available]).all()
        chosen = router.schedule(observation)
        assert observation.available[chosen]
        simulation.place(chosen)
    check_all_is_returned(simulation)
    check_requests(simulation, simulation.engine.recording(False))
