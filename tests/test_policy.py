"""The policy: NumPy, the compiled kernel and torch agree; replicas may be renumbered; sampling; whole simulations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from observations import observe
from test_foresight import some_weights

from rl.router import scores as kernel
from rl.router.checkpoint import Checkpoint, policy_path
from rl.router.compiled import score_callback
from rl.router.encoder import StateEncoder
from rl.router.features import (
    AGGREGATES,
    CONTEXT,
    I_BACKLOG,
    I_BACKLOG_BACKLOG,
    I_INTERFERENCE,
    I_KV_EXCESS,
    I_LOAD,
    I_LOAD_LOAD,
    INTERACTIONS,
    LOAD_KNEE,
    feature_count,
    ttft_weight,
)
from rl.router.policy import NumpyPolicy, PolicyWeights, bounded_products
from rl.router.scheduler import PPOScheduler
from rl.train.network import Actor
from vidur import observation as seen
from vidur.config import SimulationConfig
from vidur.engine.compile import allocating_kernel
from vidur.engine.plan import hardware_facts
from vidur.observation import Floats
from vidur.scheduler.routers import RouterContext
from vidur.simulator import Simulator

DEPTH = 3
FEATURES = feature_count(DEPTH)

score_by_handle = score_callback.call


@allocating_kernel
def compiled_scores(
    handle: int, x: Floats, context: Floats, available: NDArray[np.int64], memory: Floats, scores: Floats
) -> None:
    score_by_handle(handle, (x, context, available, memory, scores))


def state(seed: int, replicas: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Features [replicas, F], context and a mask with at least one replica, as if drawn from a simulation."""
    rng = np.random.default_rng(seed)
    mask = rng.random(replicas) < 0.7
    mask[rng.integers(replicas)] = True
    return rng.exponential(3.0, (replicas, FEATURES)), rng.exponential(3.0, CONTEXT), mask


def torch_actor(seed: int) -> Actor:
    """With every parameter and the normaliser away from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    actor = Actor(DEPTH, 24, 12)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in actor.named_buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("std") else 0.0))
    return actor


def normalised(scores: Floats) -> Floats:
    """Log-probabilities."""
    greatest = scores.max()
    shifted: Floats = scores - greatest - np.log(np.exp(scores - greatest).sum())
    return shifted


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 20), replicas=st.integers(1, 16))
def test_numpy_the_kernel_and_torch_agree(seed: int, replicas: int) -> None:
    actor = torch_actor(seed % 5).double()
    weights = actor.weights()
    x, context, mask = state(seed, replicas)
    by_numpy = NumpyPolicy(weights).scores(x, context, mask)
    by_kernel = np.empty(replicas)
    handle = score_callback.handle(kernel.score)
    compiled_scores(
        handle, np.ascontiguousarray(x.T), context, mask.astype(np.int64), weights.memory(5.0, False), by_kernel
    )
    with torch.no_grad():
        by_torch = actor(*(torch.from_numpy(part)[None] for part in (x, context, mask)))[0].numpy()
    assert np.array_equal(np.isneginf(by_numpy), ~mask)
    assert np.array_equal(np.isneginf(by_kernel), ~mask) and np.array_equal(np.isneginf(by_torch), ~mask)
    assert by_kernel[mask] == pytest.approx(by_numpy[mask], rel=1e-9, abs=1e-9)
    assert by_torch[mask] == pytest.approx(normalised(by_numpy)[mask], rel=1e-5, abs=1e-5)


def test_single_precision_torch_agrees_too() -> None:
    actor = torch_actor(1)
    policy = NumpyPolicy(actor.weights())
    for seed in range(20):
        x, context, mask = state(seed, 6)
        with torch.no_grad():
            parts = torch.from_numpy(x).float(), torch.from_numpy(context).float(), torch.from_numpy(mask)
            by_torch = actor(*(part[None] for part in parts))[0].numpy()
        assert by_torch[mask] == pytest.approx(normalised(policy.scores(x, context, mask))[mask], rel=1e-4, abs=1e-4)


def test_what_is_away_changes_nothing() -> None:
    """Padding to more replicas gives the scores of the smaller cluster."""
    policy = NumpyPolicy(some_weights(DEPTH))
    x, context, _ = state(0, 3)
    alone = policy.scores(x, context, np.ones(3, np.bool_))
    padded = np.concatenate([x, np.full((4, FEATURES), 1e3)])
    mask = np.arange(7) < 3
    assert policy.scores(padded, context, mask)[:3] == pytest.approx(alone, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_renumbering_replicas_renumbers_scores_and_the_decision(data: st.DataObject) -> None:
    replicas = data.draw(st.integers(1, 9))
    order = np.array(data.draw(st.permutations(range(replicas))))
    x, context, mask = state(data.draw(st.integers(0, 1000)), replicas)
    policy = NumpyPolicy(some_weights(DEPTH))
    scores = policy.scores(x, context, mask)
    moved = policy.scores(x[order], context, mask[order])
    assert moved[mask[order]] == pytest.approx(scores[order][mask[order]], rel=1e-9, abs=1e-9)
    assert order[moved.argmax()] == scores.argmax()


def test_folding_the_normaliser_and_back_is_nothing() -> None:
    actor = torch_actor(3).double()
    twin = Actor(DEPTH, 24, 12).double()
    twin.set_weights(actor.weights(), actor.normaliser())
    for (name, mine), theirs in zip(actor.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9), name


def test_what_does_not_vary_when_the_statistics_are_taken_has_no_say() -> None:
    actor = torch_actor(2).double()
    parts = [tuple(map(torch.from_numpy, state(seed, 4))) for seed in range(8)]
    x, context, mask = (torch.stack(part) for part in zip(*parts, strict=True))
    x[:, :, 3], context[:, 1] = 1.5, 0.0
    actor.fit_normaliser(x, context, mask)
    weights = actor.weights()
    of_replica, of_context = weights.used
    assert np.flatnonzero(~of_replica).tolist() == [3] and np.flatnonzero(~of_context).tolist() == [1]
    policy = NumpyPolicy(weights)
    x, context, mask = state(99, 4)
    before = policy.scores(x, context, mask)
    x[:, 3], context[1] = np.arange(4), 7.0
    assert policy.scores(x, context, mask) == pytest.approx(before, rel=1e-12)


def at_betas(products: Floats, by_beta: Floats) -> Floats:
    """[3, I]: the weights of the interactions at beta 1, 10 and 50."""
    return np.stack([products + by_beta * np.log1p(ttft_weight(beta)) for beta in (1.0, 10.0, 50.0)])


HELD = [I_BACKLOG, I_INTERFERENCE, I_LOAD, I_BACKLOG_BACKLOG, I_KV_EXCESS, I_LOAD_LOAD]


@given(st.integers(0, 9999), st.floats(0.1, 50.0))
def test_bounded_products_never_attract_what_is_full(seed: int, spread: float) -> None:
    products, by_beta = spread * np.random.default_rng(seed).standard_normal((2, INTERACTIONS))
    bounded = bounded_products(products, by_beta)
    before, after = at_betas(products, by_beta), at_betas(*bounded)
    assert (after[:, HELD[:-1]] <= 1e-9 * spread).all()
    # The derivative by load_linear goes from the weight of load to this one, beyond the knee.
    assert (after[:, I_LOAD] + 2 * LOAD_KNEE * after[:, I_LOAD_LOAD] <= 1e-9 * spread).all()
    # Nothing attracts more than it did, the rest is as it was, and once is enough.
    assert (after[:, HELD] <= before[:, HELD] + 1e-9 * spread).all()
    assert (np.delete(after, HELD, 1) == np.delete(before, HELD, 1)).all()
    assert np.allclose(bounded_products(*bounded), bounded, rtol=1e-9, atol=1e-9 * spread)


def test_the_shipped_policy_is_within_the_bounds() -> None:
    weights = Checkpoint.load(policy_path(None)).weights
    found = bounded_products(weights.products, weights.products_by_beta)
    assert (found[0] == weights.products).all() and (found[1] == weights.products_by_beta).all()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_shipped_policy_leaves_the_fullest_replica_alone(data: st.DataObject) -> None:
    """One of equal replicas has several times what the others have, far more than in training."""
    replicas = data.draw(st.integers(2, 8))
    outstanding = np.array([data.draw(st.integers(0, 60)) for _ in range(replicas)], np.float64)
    fullest = data.draw(st.integers(0, replicas - 1))
    outstanding[fullest] = 150 + data.draw(st.floats(3.0, 10.0)) * outstanding.max()
    waiting = np.array([data.draw(st.floats(0.0, 0.2)) for _ in range(replicas)])
    waiting[fullest] = waiting.max()
    prompt = data.draw(st.integers(30, 4000))
    lengths = np.array([prompt * data.draw(st.floats(0.5, 2.0)) for _ in range(replicas)])
    cluster = observe(replicas, prompt=prompt, outstanding=outstanding, prompt_tokens=outstanding * lengths)
    cluster.ledger[:, seen.AWAITING] = np.rint(waiting * outstanding)
    cluster.ledger[:, seen.AWAITING_TOKENS] = cluster.ledger[:, seen.AWAITING] * lengths
    cluster.ledger[:, seen.STREAMED_TOKENS] = 50.0 * (outstanding - cluster.ledger[:, seen.AWAITING])
    cluster.hardware[:, seen.PREFILL_SECONDS], cluster.hardware[:, seen.DECODE_SECONDS] = 7e-5, 0.012
    cluster.hardware[:, seen.KV_TOKENS] = 400_000
    shipped = Checkpoint.load(policy_path(None))
    ledger = np.concatenate([cluster.ledger, np.zeros((replicas, 2 * shipped.max_queue_requests))], axis=1)
    encoder = StateEncoder(replicas, shipped.max_queue_requests)
    x, context = encoder.encode(replace(cluster, ledger=ledger), data.draw(st.floats(2.0, 44.0)))
    scores = NumpyPolicy(shipped.weights).scores(x, context, cluster.available)
    assert scores.argmax() != fullest


def test_the_network_is_bounded_in_place() -> None:
    actor = Actor(1, 4, 3)
    with torch.no_grad():
        actor.products[I_LOAD_LOAD], actor.products[I_LOAD] = 1.0, -2.0
        actor.products_by_beta[I_LOAD] = -0.1
    before = actor.products.clone()
    actor.bound()
    weights = actor.weights()
    found = at_betas(weights.products, weights.products_by_beta)
    assert found[:, I_LOAD_LOAD] == pytest.approx(-0.3 * found[:, I_LOAD], rel=1e-6)
    before[I_LOAD_LOAD] = actor.products[I_LOAD_LOAD]
    assert torch.equal(actor.products, before)


def test_scores_by_hand() -> None:
    """One hidden unit in each layer, one interaction: the formula of the module, written out."""
    features = AGGREGATES + 2 * DEPTH
    zeros = np.zeros((features, 1))
    replica, pooled = zeros.copy(), np.zeros((3 * features, 1))
    replica[0] = 2.0
    pooled[[0, features, 2 * features], 0] = 1.0, 10.0, 100.0
    context_weights, products, by_beta = np.zeros((CONTEXT, 1)), np.zeros(INTERACTIONS), np.zeros(INTERACTIONS)
    context_weights[1] = 1000.0
    products[4], by_beta[4] = 0.5, 0.25
    one = np.ones(1)
    weights = PolicyWeights(replica, context_weights, pooled, one, np.full((1, 1), 2.0), -3 * one, 0.5 * one, products,
                            by_beta)  # fmt: skip
    x, context = np.zeros((2, FEATURES)), np.zeros(CONTEXT)
    x[:, 0] = 1.0, 4.0
    x[:, features + 4] = 1.0, -2.0
    context[[1, 2]] = 7.0, 3.0  # age, and log(1 + beta)
    scores = NumpyPolicy(weights).scores(x, context, np.ones(2, np.bool_))
    shared = 2.5 * 1 + 1.0 * 10 + 4.0 * 100 + 7.0 * 1000 + 1.0
    expected = [0.5 * (2 * (2 * value + shared) - 3) + product * (0.5 + 0.25 * 3)
                for value, product in ((1, 1), (4, -2))]  # fmt: skip
    assert scores == pytest.approx(expected, rel=1e-12)


def test_sampling_follows_the_softmax() -> None:
    scores = np.array([0.3, -np.inf, 1.5, -2.0, 0.0])
    expected = np.exp(normalised(scores))
    draws = (np.arange(20_000) + 0.5) / 20_000
    found = np.bincount([kernel.sample(scores, draw) for draw in draws], minlength=5) / len(draws)
    assert found == pytest.approx(expected, abs=1e-4)
    assert [kernel.log_probability(scores, replica) for replica in (0, 2, 3, 4)] == pytest.approx(
        normalised(scores)[[0, 2, 3, 4]], rel=1e-12
    )
    # The ends of [0, 1), and scores so far apart that only one probability is left.
    assert kernel.sample(scores, 0.0) == 0 and kernel.sample(scores, np.nextafter(1.0, 0.0)) == 4
    assert kernel.sample(np.array([-np.inf, 1e5, -1e5]), 0.999) == 1


def test_weights_of_other_shapes_are_refused() -> None:
    parts = vars(some_weights(DEPTH))
    for name in ("context", "pooled", "bias_1", "bias_2", "score"):
        with pytest.raises(ValueError, match=name):
            PolicyWeights(**{**parts, name: parts[name][:-1, ..., :-1] if parts[name].ndim > 1 else parts[name][:-1]})


FLAGS = """
    --cluster_config_replica_groups num_replicas=2,device=h100 num_replicas=2,device=a100
    --length_generator_config_type quantile --synthetic_request_generator_config_num_requests 300
    --poisson_request_interval_generator_config_qps 30
    --cluster_config_replica_events time=2,replica=0,action=fail time=5,replica=0,action=return
"""


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("depth", [0, 4])
def test_the_compiled_simulation_decides_as_numpy_does(depth: int, sample: bool) -> None:
    """Request by request, through a failure; and the decisions are no trivial ones."""
    config = SimulationConfig.from_cli(FLAGS.split())
    weights = some_weights(depth, seed=3)

    def simulator() -> Simulator:
        plain = Simulator(config)
        context = RouterContext(hardware_facts(plain.replica_plans), np.random.default_rng(9))
        return Simulator(config, plain.requests, PPOScheduler(context, weights, depth, 10.0, sample))

    whole = simulator().run().recording.requests
    stepped = simulator()
    router: Any = stepped.router
    # The simulation draws for every request at once, in the order of the table; a request that a failure takes back
    # uses its draw again.
    draws = stepped.simulation.engine.books.draws
    clock = stepped.simulation.engine.clock
    router.draw = lambda count: draws[clock.current][None, :]
    while (observation := stepped.next_decision()) is not None:
        stepped.place(router.schedule(observation))
    found = stepped.result().recording.requests
    assert np.array_equal(found["replica"], whole["replica"])
    assert np.array_equal(found["completed_at"], whole["completed_at"])
    assert found["num_reroutes"].sum() > 0
    assert (np.bincount(found["replica"], minlength=4) > 5).sum() >= 2


def test_ties_take_turns_as_the_kernel_has_it() -> None:
    """A policy that sees no difference goes around, in NumPy and compiled alike."""
    config = SimulationConfig.from_cli([*FLAGS.split(), "--cluster_config_gauge_refresh_interval", "0"])
    spec = vars(some_weights(0))
    weights = PolicyWeights(**{name: np.zeros_like(array) for name, array in spec.items()})
    plain = Simulator(config)
    context = RouterContext(hardware_facts(plain.replica_plans), np.random.default_rng(9))
    compiled = Simulator(config, plain.requests, PPOScheduler(context, weights, 0, 10.0, False)).run()
    stepped = Simulator(config, plain.requests, PPOScheduler(context, weights, 0, 10.0, False))
    while (observation := stepped.next_decision()) is not None:
        stepped.place(stepped.router.schedule(observation))
    placed = compiled.recording.requests["replica"]
    assert np.array_equal(stepped.result().recording.requests["replica"], placed)
    assert placed[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
