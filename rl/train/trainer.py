"""The learner, which improves a policy from rollouts by PPO."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.reward.reward import Reward, RewardResult, Window
from rl.router.checkpoint import Checkpoint
from rl.router.policy import PolicyWeights
from rl.simulate.rollout import Rollout
from rl.train.network import Actor, Critic
from rl.train.ppo import TrainingBatch, Weights, advantages, update
from vidur.config import PPOGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.observation import Floats

# The weight of the newest update in the moving average of the returns' scale.
_SCALE_WEIGHT = 0.1

# A standard deviation of rewards below this counts as 0.
_LEAST_SPREAD = 1e-6

# Units of each hidden layer of the critic.
_CRITIC_UNITS = 64


class Trainer:
    """Actor, critic, reference policy and optimiser. seed: of the weights and the order of minibatches."""

    def __init__(self, config: PPOGlobalSchedulerConfig, max_queue_requests: int, reward: Reward, seed: int) -> None:
        self.config = config
        self.max_queue_requests = max_queue_requests
        self.reward = reward
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = Actor(max_queue_requests, config.hidden_1, config.hidden_2)
            self.critic = Critic(max_queue_requests, _CRITIC_UNITS, _CRITIC_UNITS)
        self.reference = copy.deepcopy(self.actor)
        self.optimizer = self._new_optimizer()
        self._return_scale = 0.0

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        return torch.optim.Adam(parameters, self.config.learning_rate, eps=1e-5)

    def start_from_here(self) -> None:
        """Make the current policy the reference, and reset the optimiser."""
        self.reference = copy.deepcopy(self.actor).requires_grad_(False)
        self.optimizer = self._new_optimizer()

    def begin_with(self, checkpoint: Checkpoint) -> None:
        """Start from a checkpoint of the same sizes. Raises InputError if it has no statistics of its features."""
        assert checkpoint.weights.hidden.shape == (self.config.hidden_1, self.config.hidden_2)
        if checkpoint.normaliser is None:
            raise InputError("the checkpoint has no feature statistics, so it cannot be trained further")
        self.actor.set_weights(checkpoint.weights, checkpoint.normaliser)
        self.start_from_here()

    def fit_normaliser(self, rollouts: Sequence[Rollout]) -> None:
        """Set the normaliser to the statistics of rollouts."""
        self.actor.fit_normaliser(*states_of(rollouts))

    def begin_with_products(
        self, products: Floats, by_beta: Floats, entropy: float, rollouts: Sequence[Rollout]
    ) -> None:
        """Set the weights of the interactions, scaled to a mean entropy (nats) in the states of rollouts."""
        self.actor.set_products(products, by_beta, *states_of(rollouts), entropy)

    def weights(self) -> PolicyWeights:
        return self.actor.weights()

    def learn(
        self, rollouts: Sequence[Rollout], windows: Sequence[Window], groups: Sequence[int], progress: float
    ) -> tuple[dict[str, float], list[RewardResult]]:
        """Update once from rollouts and their windows; return diagnostics and each window's rewards.

        groups: a number for each rollout; rollouts of one group replay the same requests (see `centred`). progress: of
        the training, 0 to 1. Raises FloatingPointError before a step whose loss is not finite.
        """
        results = [self.reward.evaluate(window, progress) for window in windows]
        rewards = centred([result.clipped for result in results], groups)
        batch, explained = self._batch(rollouts, rewards)
        figures = update(
            self.actor, self.critic, self.optimizer, batch, self.config, Weights.at(progress, self.config),
            self._generator,
        )  # fmt: skip
        figures["reward"] = float(np.concatenate([result.raw for result in results]).mean())
        figures["explained_variance"] = explained
        figures["learning_rate"] = Weights.at(progress, self.config).learning_rate
        return figures, results

    @torch.no_grad()
    def _batch(self, rollouts: Sequence[Rollout], rewards: Sequence[Floats]) -> tuple[TrainingBatch, float]:
        replicas = max(rollout.masks.shape[1] for rollout in rollouts)
        features = torch.from_numpy(np.concatenate([padded(rollout.features, replicas) for rollout in rollouts]))
        contexts = torch.from_numpy(np.concatenate([rollout.contexts for rollout in rollouts]))
        masks = torch.from_numpy(np.concatenate([padded(rollout.masks, replicas) for rollout in rollouts]))
        values = self._values(features, contexts, masks)
        estimates, rows, actions, log_probabilities, begin = [], [], [], [], 0
        for rollout, reward in zip(rollouts, rewards, strict=True):
            count = len(reward)
            # A rollout that is cut to the shortest of its group does not end at its last reward.
            ended = rollout.ended and count == len(rollout)
            value = values[begin : begin + count + 1]
            estimates.append(advantages(reward, value, ended, self.config.discount, self.config.gae_lambda))
            rows.append(np.arange(begin, begin + count))
            actions.append(rollout.actions[:count])
            log_probabilities.append(rollout.log_probabilities[:count])
            begin += len(rollout.features)
        chosen = np.concatenate(rows)
        advantage = np.concatenate(estimates)
        returns = advantage + values[chosen]
        explained = 1.0 - float(np.var(advantage) / max(np.var(returns), 1e-12))
        self._rescale(returns)
        x, context, mask = features[chosen], contexts[chosen], masks[chosen]
        batch = TrainingBatch(
            features=x,
            contexts=context,
            masks=mask,
            actions=torch.from_numpy(np.concatenate(actions)),
            log_probabilities=torch.from_numpy(np.concatenate(log_probabilities)).float(),
            reference=self.reference(x, context, mask),
            advantages=torch.from_numpy(advantage).float(),
            returns=torch.from_numpy(returns / self._return_scale).float(),
        )
        return batch, explained

    def _values(self, features: Tensor, contexts: Tensor, masks: Tensor) -> Floats:
        """Return the critic's values in the reward's units."""
        # The unused row after the end of a simulation has no available replica.
        nonempty = masks | ~masks.any(1, keepdim=True)
        values = self.critic(*self.actor.normalise(features, contexts), nonempty)
        scaled: Floats = values.double().numpy() * self._return_scale
        return scaled

    def _rescale(self, returns: Floats) -> None:
        spread = max(float(returns.std()), 1e-6)
        first = self._return_scale == 0.0
        self._return_scale = spread if first else (1 - _SCALE_WEIGHT) * self._return_scale + _SCALE_WEIGHT * spread

    def checkpoint(self, facts: Mapping[str, Any], with_training: bool, more: Mapping[str, Any] | None = None) -> (
        Checkpoint
    ):  # fmt: skip
        """Return the policy as a checkpoint; `with_training` adds the state to resume from and `more`."""
        training = {**self.state(), **(more or {})} if with_training else {}
        return Checkpoint(self.weights(), self.max_queue_requests, facts, training, self.actor.normaliser())

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything that the next update depends on, as arrays."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, module in (("actor", self.actor), ("critic", self.critic), ("reference", self.reference)):
            arrays |= {f"{name}.{key}": value.numpy().copy() for key, value in module.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            arrays |= {f"adam.{index}.{key}": value.numpy().copy() for key, value in values.items()}
        arrays |= {f"reward.{key}": np.asarray(value) for key, value in self.reward.state().items()}
        arrays["return_scale"] = np.array(self._return_scale)
        arrays["generator"] = self._generator.get_state().numpy().copy()
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `state`. Raises InputError if it is that of another network."""
        for name, module in (("actor", self.actor), ("critic", self.critic), ("reference", self.reference)):
            tensors = {key: torch.from_numpy(np.array(arrays[f"{name}.{key}"])) for key in module.state_dict()
                       if f"{name}.{key}" in arrays}  # fmt: skip
            try:
                module.load_state_dict(tensors)
            except RuntimeError as error:
                raise InputError(f"the checkpoint's {name} does not fit: {' '.join(str(error).split())}") from None
        state = self.optimizer.state_dict()
        for index in range(len([*self.actor.parameters(), *self.critic.parameters()])):
            keys = [key for key in arrays if key.startswith(f"adam.{index}.")]
            if keys:
                state["state"][index] = {key.split(".", 2)[2]: torch.from_numpy(np.array(arrays[key])) for key in keys}
        self.optimizer.load_state_dict(state)
        self.reward.restore({key.removeprefix("reward."): value for key, value in arrays.items()
                             if key.startswith("reward.")})  # fmt: skip
        self._return_scale = float(arrays["return_scale"])
        self._generator.set_state(torch.from_numpy(np.array(arrays["generator"])))


def states_of(rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, contexts and masks of all decisions, padded to the most replicas."""
    most = max(rollout.masks.shape[1] for rollout in rollouts)
    return (
        torch.from_numpy(np.concatenate([padded(rollout.features[: len(rollout)], most) for rollout in rollouts])),
        torch.from_numpy(np.concatenate([rollout.contexts[: len(rollout)] for rollout in rollouts])),
        torch.from_numpy(np.concatenate([padded(rollout.masks[: len(rollout)], most) for rollout in rollouts])),
    )


def centred(rewards: Sequence[Floats], groups: Sequence[int]) -> list[Floats]:
    """Subtract at each decision the group's mean reward, and divide by the group's standard deviation.

    Rewards are cut to the shortest of the group; a simulation alone in its group keeps its rewards. Without the
    division, an overloaded episode, whose requests cost a hundred times as much, would dominate the others.
    """
    centred_rewards: list[Floats] = []
    for reward, group in zip(rewards, groups, strict=True):
        members = [member for member, other in zip(rewards, groups, strict=True) if other == group]
        if len(members) == 1:
            centred_rewards.append(reward)
            continue
        shortest = min(len(member) for member in members)
        cut = np.array([member[:shortest] for member in members])
        mean = cut.mean(0)
        spread = float((cut - mean).std()) if cut.size else 0.0
        centred_rewards.append((reward[:shortest] - mean) / max(spread, _LEAST_SPREAD))
    return centred_rewards


def padded(array: NDArray[Any], replicas: int) -> NDArray[Any]:
    """Pad [N, R, ...] with zeros to [N, replicas, ...]."""
    missing = [(0, 0)] * array.ndim
    missing[1] = (0, replicas - array.shape[1])
    return np.pad(array, missing)
