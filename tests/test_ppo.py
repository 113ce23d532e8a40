"""The pieces of PPO against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.train.network import Actor, Critic
from rl.train.ppo import TrainingBatch, Weights, advantages, entropy, kl_divergence, policy_loss, update
from vidur.config import PPOGlobalSchedulerConfig

CONFIG = PPOGlobalSchedulerConfig()
DEPTH = 2


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.99, 1.0])
def test_advantages_are_the_sums_of_their_definition(discount: float, gae_lambda: float, ended: bool) -> None:
    """A_t = sum_k (gamma lambda)^k (r_{t+k} + gamma V_{t+k+1} - V_{t+k})."""
    rng = np.random.default_rng(1)
    for count in (1, 2, 7):
        rewards, values = rng.normal(size=count), rng.normal(size=count + 1)
        after = np.append(values[1:-1], 0.0 if ended else values[-1])
        surprises = rewards + discount * after - values[:-1]
        expected = [
            sum((discount * gae_lambda) ** k * surprises[step + k] for k in range(count - step))
            for step in range(count)
        ]
        found = advantages(rewards, values, ended, discount, gae_lambda)
        assert found == pytest.approx(np.array(expected), rel=1e-12, abs=1e-12)


def test_at_lambda_1_advantages_are_returns_less_values() -> None:
    rewards, values = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.25, 0.125, 9.0])
    returns = [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4, 4]
    assert advantages(rewards, values, True, 0.5, 1.0) == pytest.approx(np.array(returns) - values[:3])


def test_the_clipped_surrogate_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5, 1.1 with both signs of the advantage; clipped at 0.8 and 1.2."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss = policy_loss(ratio.log(), torch.zeros(5), advantage, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2) / 5)
    loss.backward()
    # Beyond the clip, on the side that the advantage would go on to, there is no gradient.
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([0.0, 0.2, -0.2, 0.0, -0.4])


def test_entropy_and_divergence_leave_out_what_is_not_available() -> None:
    policy = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    reference = torch.tensor([[0.25, 0.5, 0.25, 0.0]]).log()
    assert entropy(policy).item() == pytest.approx(1.5 * math.log(2))
    assert kl_divergence(policy, reference).item() == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))
    assert kl_divergence(policy, policy).item() == 0.0


@given(scores=st.lists(st.floats(-8, 8), min_size=2, max_size=6), others=st.lists(st.floats(-8, 8), min_size=6))
def test_a_divergence_is_never_negative(scores: list[float], others: list[float]) -> None:
    policy = torch.log_softmax(torch.tensor([scores], dtype=torch.float64), 1)
    reference = torch.log_softmax(torch.tensor([others[: len(scores)]], dtype=torch.float64), 1)
    assert kl_divergence(policy, reference).item() >= -1e-12
    assert 0 <= entropy(policy).item() <= math.log(len(scores)) + 1e-12


@pytest.mark.parametrize(
    ("progress", "rate", "kl"), [(0.0, 3e-4, 0.1), (0.3, 2.19e-4, 0.06), (0.6, 1.38e-4, 0.02), (1.0, 3e-5, 0.02)]
)
def test_schedules_end_where_the_configuration_says(progress: float, rate: float, kl: float) -> None:
    config = dataclasses.replace(CONFIG, kl_weight=0.1, final_kl_weight=0.02, kl_decay_fraction=0.6)
    weights = Weights.at(progress, config)
    assert weights.learning_rate == pytest.approx(rate) and weights.kl == pytest.approx(kl)


def learner(seed: int = 0) -> tuple[Actor, Critic, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    actor, critic = Actor(DEPTH, 8, 8), Critic(DEPTH, 8, 8)
    return actor, critic, torch.optim.Adam([*actor.parameters(), *critic.parameters()], 3e-3)


def batch_of(actor: Actor, count: int, best: int, seed: int = 0) -> TrainingBatch:
    """States of three replicas, in which replica `best` was right and the others were wrong."""
    generator = torch.Generator().manual_seed(seed)
    size = actor.features + len(actor.products)
    features = torch.randn(count, 3, size, generator=generator)
    features[:, best] += 1.0
    contexts = torch.randn(count, 9, generator=generator)
    masks = torch.ones(count, 3, dtype=torch.bool)
    with torch.no_grad():
        reference = actor(features, contexts, masks)
    actions = torch.randint(3, (count,), generator=generator)
    right = (actions == best).float()
    return TrainingBatch(
        features, contexts, masks, actions, reference.gather(1, actions[:, None]).squeeze(1), reference,
        advantages=2 * right - 1, returns=right,
    )  # fmt: skip


def test_updates_raise_the_probability_of_what_was_right() -> None:
    actor, critic, optimizer = learner()
    batch = batch_of(actor, 256, best=1)
    generator = torch.Generator().manual_seed(0)
    config = dataclasses.replace(CONFIG, minibatch_decisions=64, epochs=20, target_kl=10.0)
    figures = update(actor, critic, optimizer, batch, config, Weights(3e-3, 0.0, 0.0), generator)
    with torch.no_grad():
        after = actor(batch.features, batch.contexts, batch.masks).exp()
    assert after[:, 1].mean() > 0.6 > batch.reference.exp()[:, 1].mean() + 0.2
    assert figures["value_loss"] < 1.0 and figures["epochs"] == 20


def test_a_weight_on_the_divergence_holds_the_policy_to_the_reference() -> None:
    moved = {}
    for weight in (0.0, 10.0):
        actor, critic, optimizer = learner()
        batch = batch_of(actor, 256, best=1)
        config = dataclasses.replace(CONFIG, minibatch_decisions=64, epochs=10, target_kl=10.0)
        update(actor, critic, optimizer, batch, config, Weights(3e-3, 0.0, weight), torch.Generator().manual_seed(0))
        with torch.no_grad():
            after = actor(batch.features, batch.contexts, batch.masks)
        moved[weight] = kl_divergence(after, batch.reference).mean().item()
    assert moved[10.0] < 0.2 * moved[0.0]


def test_an_update_that_goes_too_far_ends_early() -> None:
    actor, critic, optimizer = learner()
    batch = batch_of(actor, 256, best=1)
    config = dataclasses.replace(CONFIG, minibatch_decisions=64, epochs=50, target_kl=1e-4)
    figures = update(actor, critic, optimizer, batch, config, Weights(3e-2, 0.0, 0.0), torch.Generator().manual_seed(0))
    assert figures["epochs"] < 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_takes_no_step(bad: float) -> None:
    actor, critic, optimizer = learner()
    batch = batch_of(actor, 64, best=1)
    returns = batch.returns.clone()
    returns[:] = bad
    before = [parameter.clone() for parameter in actor.parameters()]
    with pytest.raises(FloatingPointError, match="loss"):
        update(
            actor, critic, optimizer, dataclasses.replace(batch, returns=returns), CONFIG, Weights(1e-3, 0.0, 0.0),
            torch.Generator(),
        )  # fmt: skip
    assert all(torch.equal(old, new) for old, new in zip(before, actor.parameters(), strict=True))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_permuting_replicas_permutes_the_policy(seed: int) -> None:
    torch.manual_seed(seed)
    actor = Actor(DEPTH, 8, 8)
    torch.nn.init.normal_(actor.score.weight)
    torch.nn.init.normal_(actor.products)
    batch = batch_of(actor, 4, best=0, seed=seed)
    order = torch.randperm(3)
    with torch.no_grad():
        permuted = actor(batch.features[:, order], batch.contexts, batch.masks)
        assert torch.allclose(permuted, actor(batch.features, batch.contexts, batch.masks)[:, order], atol=1e-5)
