"""The learned router as a global scheduler, for the simulator and for real replicas.

It imports neither numba nor torch: the simulator compiles `PPOScheduler.choose`, and `schedule` decides with NumPy.
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
    """Route with a trained policy to the replica with the highest score; ties take turns.

    sample: draw the replica with the policy's probabilities instead.
    """

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
        """Return float64[replicas]: the policy's logits, -inf for unavailable replicas."""
        return self._policy.scores(*self._encoder.encode(observation, self.beta), observation.available)

    @property
    def seen(self) -> Floats:
        """A view of what the last scores came from, float64[G + 3 F + 1]: the context, then the mean, the least and the
        greatest of every feature over the available replicas, then 1."""
        return self._policy.seen

    def schedule(self, observation: ClusterObservation) -> int:
        return self.choose_by(self.scores(observation))

    def choose_by(self, scores: Floats) -> int:
        """Choose as `schedule` does at these scores."""
        if self._samples:
            return sample(scores, float(self.draw(1)[0, 0]))
        values: list[float] = scores.tolist()
        greatest, last = max(values), int(self.memory[LAST])
        chosen = values.index(greatest)
        if chosen <= last and greatest in values[last + 1 :]:
            # Ties take turns.
            chosen = values.index(greatest, last + 1)
        self.memory[LAST] = chosen
        return chosen


def ppo_maker(config: PPOGlobalSchedulerConfig) -> Callable[[RouterContext], PPOScheduler]:
    """Read the checkpoint that `config` names, and return a function that makes its router for a cluster.

    Raises InputError for a checkpoint that cannot be used.
    """
    if config.checkpoint == "new":
        raise InputError(f"{config.flag('checkpoint')} new has no policy to run: add {config.flag('mode')} train")
    checkpoint = configured_checkpoint(config)
    return lambda context: PPOScheduler(
        context, checkpoint.weights, checkpoint.max_queue_requests, config.beta, config.sample, checkpoint.normaliser
    )


def configured_checkpoint(config: PPOGlobalSchedulerConfig) -> Checkpoint:
    """Read the checkpoint that `config` names. Raises InputError if it cannot be used."""
    path = policy_path(config.checkpoint)
    checkpoint = Checkpoint.load(path)
    check_queue_requests(checkpoint, config.max_queue_requests, path)
    return checkpoint
