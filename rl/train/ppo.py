"""Proximal policy optimisation: compute advantages and update actor and critic.

Sources: generalised advantage estimation (GAE), Schulman et al., 2016 (arXiv 1506.02438), equation 16; the clipped
surrogate, Schulman et al., 2017 (arXiv 1707.06347), equation 7; approx_kl, Schulman, 2020 (joschu.net/blog/kl-approx).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl.train.network import Actor, Critic
from vidur.config import PPOGlobalSchedulerConfig
from vidur.observation import Floats


def advantages(rewards: Floats, values: Floats, ended: bool, discount: float, gae_lambda: float) -> Floats:
    """Return the GAE advantages [T] of one simulation's rewards [T] and values [T + 1].

    The last value, of the state after the last decision, counts as 0 if the simulation has `ended`.
    """
    estimates = np.zeros(len(rewards))
    next_value = 0.0 if ended else float(values[-1])
    advantage = 0.0
    for step in range(len(rewards) - 1, -1, -1):
        delta = rewards[step] + discount * next_value - values[step]
        advantage = delta + discount * gae_lambda * advantage
        estimates[step] = advantage
        next_value = values[step]
    return estimates


@dataclass(frozen=True)
class TrainingBatch:
    """Decisions of many simulations, padded to the most replicas.

    features [N, R, F] raw, contexts [N, G], masks bool[N, R]; actions int64[N]; log_probabilities [N] of the actions
    under the policy that acted; reference [N, R]: log-probabilities under the reference policy; advantages, returns
    [N].
    """

    features: Tensor
    contexts: Tensor
    masks: Tensor
    actions: Tensor
    log_probabilities: Tensor
    reference: Tensor
    advantages: Tensor
    returns: Tensor

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Weights:
    """The scheduled hyper-parameters: the learning rate, and the weights of entropy and KL divergence in the loss."""

    learning_rate: float
    entropy: float
    kl: float

    @classmethod
    def at(cls, progress: float, config: PPOGlobalSchedulerConfig) -> Weights:
        """Return the values at a progress, 0 to 1, of the training."""

        def linear(start: float, end: float, duration: float) -> float:
            return start + (end - start) * min(progress / duration, 1.0)

        return cls(
            learning_rate=linear(config.learning_rate, config.final_learning_rate, 1.0),
            entropy=linear(config.entropy_weight, config.final_entropy_weight, 1.0),
            kl=linear(config.kl_weight, config.final_kl_weight, config.kl_decay_fraction),
        )


def policy_loss(log_probabilities: Tensor, before: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Return the negated clipped surrogate, the mean over decisions of max(-r A, -clip(r, 1 - e, 1 + e) A)."""
    ratio = (log_probabilities - before).exp()
    return torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()


def entropy(log_probabilities: Tensor) -> Tensor:
    """Return the entropies [N] of distributions [N, R]; -inf is a probability of 0."""
    return -(log_probabilities.exp() * finite(log_probabilities)).sum(1)


def kl_divergence(log_probabilities: Tensor, reference: Tensor) -> Tensor:
    """Return KL(policy || reference), [N], of distributions [N, R]."""
    return (log_probabilities.exp() * (finite(log_probabilities) - finite(reference))).sum(1)


def finite(log_probabilities: Tensor) -> Tensor:
    """Replace -inf by 0, so that a probability of 0 times its logarithm is 0."""
    return log_probabilities.masked_fill(log_probabilities == -torch.inf, 0.0)


def update(
    actor: Actor,
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    batch: TrainingBatch,
    config: PPOGlobalSchedulerConfig,
    weights: Weights,
    generator: torch.Generator,
) -> dict[str, float]:
    """Improve actor and critic on a batch. Returns the mean diagnostics, and the number of `epochs`.

    Raises FloatingPointError before a step whose loss or gradient is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = weights.learning_rate
    parameters = [*actor.parameters(), *critic.parameters()]
    scaled = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    diagnostics: list[list[float]] = []
    epochs = 0
    for _ in range(config.epochs):
        order = torch.randperm(len(batch), generator=generator)
        epochs += 1
        divergences = []
        for rows in torch.split(order, config.minibatch_decisions):
            x, context, mask = batch.features[rows], batch.contexts[rows], batch.masks[rows]
            distribution = actor(x, context, mask)
            taken = distribution.gather(1, batch.actions[rows, None]).squeeze(1)
            values = critic(*actor.normalise(x, context), mask)

            surrogate = policy_loss(taken, batch.log_probabilities[rows], scaled[rows], config.clip_range)
            value_loss = (values - batch.returns[rows]).square().mean()
            bonus = entropy(distribution).mean()
            to_reference = kl_divergence(distribution, batch.reference[rows]).mean()
            loss = surrogate + config.value_weight * value_loss - weights.entropy * bonus + weights.kl * to_reference

            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"the gradient's norm is {norm.item()}")
            optimizer.step()
            actor.bound()

            with torch.no_grad():
                change = taken - batch.log_probabilities[rows]
                approx_kl = (change.exp() - 1 - change).mean().item()
                clipped = ((change.exp() - 1).abs() > config.clip_range).float().mean().item()
            divergences.append(approx_kl)
            diagnostics.append(
                [surrogate.item(), value_loss.item(), bonus.item(), to_reference.item(), approx_kl, clipped]
            )
        if np.mean(divergences) > config.target_kl:
            break
    names = ("policy_loss", "value_loss", "entropy", "kl_to_reference", "approx_kl", "clipfrac")
    return {**dict(zip(names, np.mean(diagnostics, 0).tolist(), strict=True)), "epochs": float(epochs)}
