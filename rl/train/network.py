"""The actor and the critic in torch, for training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rl.router.features import CONTEXT, G_BETA, INTERACTIONS, feature_count
from rl.router.policy import Normaliser, PolicyWeights, bounded_products
from vidur.observation import Floats


class ReplicaNetwork(nn.Module):
    """Two hidden layers shared by all replicas: relu(x A + context C + pooled D + a), relu(. B + b).

    forward(x [N, R, F], context [N, G], mask bool[N, R]) -> [N, R, H2], of normalised x and context. pooled: mean,
    least and greatest of x over the replicas in the mask.
    """

    def __init__(self, features: int, context: int, hidden_1: int, hidden_2: int) -> None:
        super().__init__()
        self.replica = nn.Linear(features, hidden_1)
        self.context = nn.Linear(context, hidden_1, bias=False)
        self.pooled = nn.Linear(3 * features, hidden_1, bias=False)
        self.hidden = nn.Linear(hidden_1, hidden_2)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        base = self.context(context) + self.pooled(pool(x, mask))
        return torch.relu(self.hidden(torch.relu(self.replica(x) + base[:, None, :])))


def pool(x: Tensor, mask: Tensor) -> Tensor:
    """Return mean, least and greatest over the replicas in the mask, [N, 3 F]."""
    absent = ~mask[:, :, None]
    count = mask.sum(1, keepdim=True)
    mean = x.masked_fill(absent, 0.0).sum(1) / count
    least = x.masked_fill(absent, torch.inf).amin(1)
    greatest = x.masked_fill(absent, -torch.inf).amax(1)
    return torch.cat([mean, least, greatest], 1)


class Actor(nn.Module):
    """Score replicas by a network of the features, plus a linear function of the interactions, the last features.

    The actor holds the normaliser of features and context; interactions are not normalised. The network's last layer
    starts at 0.
    """

    replica_mean: Tensor
    replica_std: Tensor
    context_mean: Tensor
    context_std: Tensor

    def __init__(self, queue_depth: int, hidden_1: int, hidden_2: int) -> None:
        super().__init__()
        features, context = feature_count(queue_depth) - INTERACTIONS, CONTEXT
        self.features = features
        self.network = ReplicaNetwork(features, context, hidden_1, hidden_2)
        self.score = nn.Linear(hidden_2, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.products = nn.Parameter(torch.zeros(INTERACTIONS))
        self.products_by_beta = nn.Parameter(torch.zeros(INTERACTIONS))
        for name, size in (("replica", features), ("context", context)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))

    def normalise(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise the features, without the interactions, and the context."""
        plain = x[:, :, : self.features]
        return (plain - self.replica_mean) / self.replica_std, (context - self.context_mean) / self.context_std

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Return log-probabilities [N, R] from raw features, -inf outside the mask."""
        scores = self.score(self.network(*self.normalise(x, context), mask)).squeeze(2)
        by_beta = self.products + self.products_by_beta * context[:, G_BETA, None]
        scores = scores + (x[:, :, self.features :] * by_beta[:, None, :]).sum(2)
        return torch.log_softmax(scores.masked_fill(~mask, -torch.inf), 1)

    @torch.no_grad()
    def fit_normaliser(self, x: Tensor, context: Tensor, mask: Tensor) -> None:
        """Set the normaliser to the statistics of the context and of the available replicas' features.

        A feature that is constant here gets weights of 0: training would leave its random weights, which add noise
        wherever it varies.
        """
        seen = x[mask][:, : self.features].double()
        for name, values in (("replica", seen), ("context", context.double())):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            # The bound keeps a feature that hardly varies in training from exploding elsewhere.
            getattr(self, f"{name}_std").copy_(values.std(0).clamp_min(0.05))
            constant = values.amin(0) == values.amax(0)
            getattr(self.network, name).weight[:, constant] = 0.0
            if name == "replica":
                self.network.pooled.weight[:, constant.repeat(3)] = 0.0

    @torch.no_grad()
    def set_products(
        self, products: Floats, by_beta: Floats, x: Tensor, context: Tensor, mask: Tensor, entropy: float
    ) -> None:
        """Set the weights of the interactions, scaled so that the policy has this mean entropy (nats) in the states.

        A policy that does not explore cannot learn.
        """
        directions = torch.from_numpy(products).float(), torch.from_numpy(by_beta).float()
        low, high = 1e-3, 1e3
        for _ in range(40):
            factor = (low * high) ** 0.5
            self.products.copy_(directions[0] * factor)
            self.products_by_beta.copy_(directions[1] * factor)
            distribution = self(x, context, mask)
            mean = -(distribution.exp() * distribution.masked_fill(~mask, 0.0)).sum(1).mean()
            low, high = (factor, high) if mean > entropy else (low, factor)

    @torch.no_grad()
    def bound(self) -> None:
        """Bound the interactions' weights (rl.router.policy.bounded_products); call this after each optimiser step."""
        products, by_beta = bounded_products(_array(self.products), _array(self.products_by_beta))
        self.products.copy_(torch.from_numpy(products))
        self.products_by_beta.copy_(torch.from_numpy(by_beta))

    @torch.no_grad()
    def weights(self) -> PolicyWeights:
        """Return weights for inference on raw features, with the normaliser folded in."""
        network = self.network
        return PolicyWeights(
            replica=_array(network.replica.weight.T),
            context=_array(network.context.weight.T),
            pooled=_array(network.pooled.weight.T),
            bias_1=_array(network.replica.bias),
            hidden=_array(network.hidden.weight.T),
            bias_2=_array(network.hidden.bias),
            score=_array(self.score.weight[0]),
            products=_array(self.products),
            products_by_beta=_array(self.products_by_beta),
        ).folded(self.normaliser())

    def normaliser(self) -> Normaliser:
        return Normaliser(
            _array(self.replica_mean), _array(self.replica_std), _array(self.context_mean), _array(self.context_std)
        )

    @torch.no_grad()
    def set_weights(self, weights: PolicyWeights, normaliser: Normaliser) -> None:
        """Take the result of `weights` and `normaliser` of a network of the same sizes."""
        for name, values in vars(normaliser).items():
            getattr(self, name).copy_(torch.from_numpy(values))
        plain, network = weights.unfolded(normaliser), self.network
        for parameter, values in (
            (network.replica.weight, plain.replica.T), (network.context.weight, plain.context.T),
            (network.pooled.weight, plain.pooled.T), (network.replica.bias, plain.bias_1),
            (network.hidden.weight, plain.hidden.T), (network.hidden.bias, plain.bias_2),
            (self.score.weight, plain.score[None]), (self.products, plain.products),
            (self.products_by_beta, plain.products_by_beta),
        ):  # fmt: skip
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().double().numpy())


class Critic(nn.Module):
    """Estimate the expected return of a state by a ReplicaNetwork, pooled over the replicas."""

    def __init__(self, queue_depth: int, hidden_1: int, hidden_2: int) -> None:
        super().__init__()
        self.network = ReplicaNetwork(feature_count(queue_depth) - INTERACTIONS, CONTEXT, hidden_1, hidden_2)
        self.value = nn.Linear(3 * hidden_2, 1)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Return values [N] of normalised features."""
        return self.value(pool(self.network(x, context, mask), mask)).squeeze(1)  # type: ignore[no-any-return]
