"""Fit an outcome model to logged decisions, and improve a policy by the estimated costs, in torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl.router.checkpoint import Checkpoint
from rl.train.network import Actor, ReplicaNetwork
from rl.vllm.learn.experience import Experience
from rl.vllm.learn.off_policy import PolicyEstimate, compare_policies
from vidur.errors import InputError
from vidur.observation import Floats

if TYPE_CHECKING:
    from rl.vllm.learn.__main__ import LearnConfig

_BLOCKS = 60
# The output tokens after the first with which a TPOT gets full weight.
_WELL_KNOWN = 50.0
# The estimated outcomes: the cost, and times in seconds.
_OUTCOMES = ("cost", "E2E", "TTFT")


@dataclass(frozen=True)
class Tensors:
    """An Experience as tensors. outcomes [N, 2]: TTFT and TPOT in seconds; known [N, 2]: their weights."""

    features: Tensor
    contexts: Tensor
    masks: Tensor
    actions: Tensor
    outcomes: Tensor
    known: Tensor

    @classmethod
    def of(cls, experience: Experience) -> Tensors:
        after_first = np.maximum(experience.outputs - 1, 0)
        tpot = (experience.e2e - experience.ttft) / np.maximum(after_first, 1)
        known = np.stack([np.ones(len(tpot)), np.minimum(after_first / _WELL_KNOWN, 1.0)], axis=1)
        return cls(
            torch.from_numpy(experience.features),
            torch.from_numpy(experience.contexts),
            torch.from_numpy(experience.masks),
            torch.from_numpy(experience.actions),
            torch.from_numpy(np.stack([experience.ttft, tpot], axis=1)).float(),
            torch.from_numpy(known).float(),
        )


class OutcomeModel(nn.Module):
    """Predict standardised TTFT and TPOT [N, R, 2] of every choice."""

    def __init__(self, tensors: Tensors, rows: Tensor) -> None:
        super().__init__()
        seen = tensors.features[rows][tensors.masks[rows]]
        self._feature_mean, self._feature_std = seen.mean(0), seen.std(0).clamp_min(0.05)
        contexts, outcomes, known = tensors.contexts[rows], tensors.outcomes[rows], tensors.known[rows]
        self._context_mean, self._context_std = contexts.mean(0), contexts.std(0).clamp_min(0.05)
        self._mean = (known * outcomes).sum(0) / known.sum(0).clamp_min(1e-6)
        self._std = outcomes.std(0).clamp_min(1e-6)
        self.network = ReplicaNetwork(seen.shape[1], contexts.shape[1], 32, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, features: Tensor, contexts: Tensor, masks: Tensor) -> Tensor:
        x = (features - self._feature_mean) / self._feature_std
        context = (contexts - self._context_mean) / self._context_std
        outcomes: Tensor = self.head(self.network(x, context, masks))
        return outcomes

    def scaled(self, outcomes: Tensor) -> Tensor:
        return (outcomes - self._mean) / self._std

    @torch.no_grad()
    def predict(self, tensors: Tensors, experience: Experience) -> dict[str, Floats]:
        """Return predictions float64[N, R] of each of _OUTCOMES.

        They use the true output lengths, which do not depend on the choice: so the residuals are far smaller.
        """
        outcomes = self(tensors.features, tensors.contexts, tensors.masks) * self._std + self._mean
        ttft, tpot = np.moveaxis(outcomes.double().numpy(), 2, 0)
        e2e = ttft + np.maximum(experience.outputs - 1, 0)[:, None] * tpot
        cost = Experience.cost(ttft, e2e, experience.interference, experience.prices[:, None, :])
        return {
            name: np.where(experience.masks, values, 0.0)
            for name, values in zip(_OUTCOMES, (cost, e2e, ttft), strict=True)
        }


def fit_model(tensors: Tensors, rows: Tensor, config: LearnConfig, generator: torch.Generator) -> OutcomeModel:
    """Fit the outcome model to the chosen replicas of the decisions `rows` by weighted least squares."""
    model = OutcomeModel(tensors, rows)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=1e-2)
    for epoch in range(config.model_epochs):
        _set_rate(optimizer, config.learning_rate * (1 - epoch / config.model_epochs))
        for batch in torch.split(rows[torch.randperm(len(rows), generator=generator)], config.minibatch):
            predicted = model(tensors.features[batch], tensors.contexts[batch], tensors.masks[batch])
            chosen = predicted[torch.arange(len(batch)), tensors.actions[batch]]
            loss = (tensors.known[batch] * (chosen - model.scaled(tensors.outcomes[batch])) ** 2).mean()
            _descend(optimizer, loss, model)
    return model


def improve(
    actor: Actor, tensors: Tensors, rows: Tensor, advantages: Tensor, config: LearnConfig, generator: torch.Generator
) -> None:
    """Lower the expected cost of `actor` on the decisions `rows`, with a penalty on KL(old || new).

    advantages [N, R]: standardised estimates of the costs of all choices.
    """
    with torch.no_grad():
        before = actor(tensors.features, tensors.contexts, tensors.masks)
    optimizer = torch.optim.Adam(actor.parameters(), config.learning_rate)
    for epoch in range(config.policy_epochs):
        _set_rate(optimizer, config.learning_rate * (1 - epoch / config.policy_epochs))
        for batch in torch.split(rows[torch.randperm(len(rows), generator=generator)], config.minibatch):
            masks = tensors.masks[batch]
            after = actor(tensors.features[batch], tensors.contexts[batch], masks)
            cost = (after.exp() * advantages[batch]).sum(1)
            divergence = (before[batch].exp() * (before[batch] - after).masked_fill(~masks, 0.0)).sum(1)
            _descend(optimizer, (cost + config.kl_weight * divergence).mean(), actor)
            actor.bound()


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def _probabilities(actor: Actor, tensors: Tensors, sample: bool) -> Floats:
    """Return the policy's probabilities float64[N, R]. Without `sample` the best replicas share them evenly."""
    distribution = actor(tensors.features, tensors.contexts, tensors.masks).double()
    if not sample:
        best = (distribution >= distribution.amax(1, keepdim=True) - 1e-9).double()
        return _array(best / best.sum(1, keepdim=True))
    return _array(distribution.exp())


def _array(tensor: Tensor) -> Floats:
    return np.asarray(tensor.numpy(), np.float64)


@dataclass(frozen=True)
class Learned:
    """The new policy, and its estimated outcomes on held-out decisions."""

    checkpoint: Checkpoint
    estimates: dict[str, PolicyEstimate]

    @property
    def is_better(self) -> bool:
        return self.estimates["cost"].high < 0.0


def learn(checkpoint: Checkpoint, experience: Experience, config: LearnConfig) -> Learned:
    """Learn from three of five blocks of decisions, and estimate on the others. The same seed gives the same bytes.

    Raises InputError for a checkpoint that cannot be trained, and if the estimates are not finite.
    """
    if checkpoint.normaliser is None:
        raise InputError("--checkpoint has no feature statistics, which learning needs: use a newer one")
    blocks = np.arange(len(experience)) * _BLOCKS // len(experience)
    test = blocks % 5 >= 3
    rows = torch.from_numpy(np.flatnonzero(~test))
    tensors = Tensors.of(experience)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = fit_model(tensors, rows, config, generator)
        old, new = _actor(checkpoint), _actor(checkpoint)
    predicted = model.predict(tensors, experience)
    improve(new, tensors, rows, _advantages(experience, predicted["cost"], config), config, generator)
    _, test_blocks = np.unique(blocks[test], return_inverse=True)
    estimates = _estimates(
        experience, predicted, test, test_blocks,
        _probabilities(old, tensors, config.sample), _probabilities(new, tensors, config.sample), config.seed,
    )  # fmt: skip
    if not np.isfinite([[item.old, item.new, item.low, item.high] for item in estimates.values()]).all():
        raise InputError("the estimates are not finite: the log has absurd numbers, or --learning_rate is too large")
    facts = {
        **checkpoint.facts,
        "learned_from_log": {
            "decisions": len(experience),
            "config": {name: value for name, value in asdict(config).items() if name not in ("output", "checkpoint")},
            "estimates": {name: asdict(estimate) for name, estimate in estimates.items()},
        },
    }
    learned = Checkpoint(new.weights(), checkpoint.max_queue_requests, facts, normaliser=new.normaliser())
    return Learned(learned, estimates)


def _actor(checkpoint: Checkpoint) -> Actor:
    assert checkpoint.normaliser is not None
    first, second = checkpoint.weights.hidden.shape
    actor = Actor(checkpoint.max_queue_requests, first, second)
    actor.set_weights(checkpoint.weights, checkpoint.normaliser)
    return actor


def _advantages(experience: Experience, predicted: Floats, config: LearnConfig) -> Tensor:
    """Return doubly robust costs [N, R]: predictions, corrected for the choices made, less their mean; standardised."""
    rows, masks = np.arange(len(experience)), experience.masks
    weights = np.minimum(1.0 / experience.propensities, config.largest_weight)
    costs = predicted.copy()
    costs[rows, experience.actions] += weights * (experience.costs - predicted[rows, experience.actions])
    costs -= (predicted * masks).sum(1, keepdims=True) / masks.sum(1, keepdims=True)
    return torch.from_numpy(np.where(masks, costs / experience.costs.std(), 0.0)).float()


def _estimates(
    experience: Experience,
    predicted: dict[str, Floats],
    test: NDArray[np.bool_], blocks: NDArray[np.int64], old: Floats,
    new: Floats, seed: int,
) -> dict[str, PolicyEstimate]:  # fmt: skip
    outcomes = (experience.costs, experience.e2e, experience.ttft)
    return {
        name: compare_policies(
            old[test], new[test], experience.actions[test], experience.propensities[test], outcome[test],
            predicted[name][test], blocks, np.random.default_rng(seed),
        )
        for name, outcome in zip(_OUTCOMES, outcomes, strict=True)
    }  # fmt: skip
