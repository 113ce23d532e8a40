"""The learned router as a global scheduler: in the simulator's loop, and in front of real replicas.

Imports neither numba nor torch. The simulator compiles `PPOScheduler.choose`; `schedule` decides with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable

from rl.router.checkpoint import Checkpoint, check_queue_requests, policy_path
from rl.router.choose import choose_ppo
from rl.router.encoder import StateEncoder
from rl.router.policy import Normaliser, NumpyPolicy, PolicyWeights
from rl.router.scores import LAST, sample
from vidur.config import PPOGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.observation import ClusterObservation, Floats
from vidur.scheduler.routers import KernelScheduler, RouterContext


class PPOScheduler(KernelScheduler):
    """Routes with a trained policy: to the replica of the highest score, equals in turns; or, with `sample`, at random
    by the policy's probabilities."""

    choose = staticmethod(choose_ppo)
    observes = 2
    draws_numbers = True

    def __init__(
        self,
        context: RouterContext,
        weights: PolicyWeights,
        max_queue_requests: int,
        beta: float,
        sample: bool,
        normaliser: Normaliser | None = None,
    ) -> None:
        super().__init__(context, weights.memory(beta, sample))
        self.weights = weights
        self.normaliser = normaliser
        self.queue_depth = max_queue_requests
        self.beta = beta
        self._samples = sample
        self._encoder = StateEncoder(context.num_replicas, max_queue_requests)
        self._policy = NumpyPolicy(weights)

    def scores(self, observation: ClusterObservation) -> Floats:
        """float64[replicas]: the logarithms of the policy's probabilities, but for a constant; -inf for one away."""
        return self._policy.scores(*self._encoder.encode(observation, self.beta), observation.available)

    @property
    def seen(self) -> Floats:
        """float64[G + 3 F + 1]: what the last scores came from: the context, then mean, least and greatest of every
        feature over the available replicas, then 1. A view."""
        return self._policy.seen

    def schedule(self, observation: ClusterObservation) -> int:
        return self.choose_by(self.scores(observation))

    def choose_by(self, scores: Floats) -> int:
        """The choice that `schedule` makes at these scores."""
        if self._samples:
            return sample(scores, float(self.draw(1)[0, 0]))
        values: list[float] = scores.tolist()
        greatest, last = max(values), int(self.memory[LAST])
        chosen = values.index(greatest)
        if chosen <= last and greatest in values[last + 1 :]:
            # Equals take turns.
            chosen = values.index(greatest, last + 1)
        self.memory[LAST] = chosen
        return chosen


def ppo_maker(config: PPOGlobalSchedulerConfig) -> Callable[[RouterContext], PPOScheduler]:
    """What makes the router that `config` describes for one cluster after the other, by a checkpoint that is read here.
    Raises InputError for one that cannot be used."""
    if config.checkpoint == "new":
        raise InputError(f"{config.flag('checkpoint')} new is no policy to evaluate: add {config.flag('mode')} train")
    path = policy_path(config.checkpoint)
    checkpoint = Checkpoint.load(path)
    check_queue_requests(checkpoint, config.max_queue_requests, path)
    return lambda context: PPOScheduler(
        context, checkpoint.weights, checkpoint.max_queue_requests, config.beta, config.sample, checkpoint.normaliser
    )
