"""Guard rails: decide when not to trust a scheduler with a request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rl.router.encoder import EncoderSpec
from rl.router.policy import Normaliser, PolicyWeights
from rl.router.scheduler import PPOScheduler
from rl.vllm.decide.config import RouterConfig
from vidur.observation import GAUGE_AGE, ClusterObservation, Floats
from vidur.scheduler.routers import GlobalScheduler

# The reasons for a fallback.
STALE_GAUGES, OUT_OF_RANGE, NOT_FINITE = "stale_gauges", "out_of_range", "not_finite"
TOO_LATE, RESTING, UNAVAILABLE, FAILED = "too_late", "resting", "unavailable", "failed"
REASONS = (STALE_GAUGES, OUT_OF_RANGE, NOT_FINITE, TOO_LATE, RESTING, UNAVAILABLE, FAILED)

# The schedulers that read gauges.
_READS_GAUGES = frozenset({"ppo", "least_kv_cache"})

# Consecutive late decisions after which the scheduler is not asked, and for how many seconds.
_LATE_IN_A_ROW, _REST_SECONDS = 3, 1.0

# Lengths may differ from those in training by a factor of 100, as a policy compares them with their mean.
_OF_LENGTHS = ("prompt", "expected_output", "all_prompts")
_LEAST_LENGTH_MARGIN = math.log(100.0)

# Features that depend on the fleet alone.
_OF_HARDWARE = ("capacity", "prefill_cost", "mean slowness", "greatest slowness")


class FeatureLimits:
    """The ranges of a policy's features: `limit` standard deviations around the mean in training.

    Lengths may differ by a factor of 100 at least. Features that the policy does not use are unlimited.
    """

    def __init__(self, weights: PolicyWeights, normaliser: Normaliser, max_queue_requests: int, limit: float) -> None:
        spec = EncoderSpec.of(max_queue_requests)
        features = [feature.name for feature in spec.replica[: len(normaliser.replica_mean)]]
        pooled = [f"{kind} {name}" for kind in ("mean", "least", "greatest") for name in features]
        self._names = [*(feature.name for feature in spec.context), *pooled]
        self._mean = np.concatenate([normaliser.context_mean, np.tile(normaliser.replica_mean, 3)])
        self._std = np.concatenate([normaliser.context_std, np.tile(normaliser.replica_std, 3)])
        of_replica, of_context = weights.used
        margin = np.where(np.concatenate([of_context, np.tile(of_replica, 3)]), limit * self._std, np.inf)
        lengths = np.array([name in _OF_LENGTHS for name in self._names])
        margin[lengths] = np.maximum(margin[lengths], _LEAST_LENGTH_MARGIN)
        self._limits = margin / self._std
        self._low, self._high = self._mean - margin, self._mean + margin
        self._clipped = np.empty(len(self._low))

    def broken_by_hardware(self, seen: Floats) -> str | None:
        """Return why every state of this fleet breaks the limits; None if states can be within them."""
        only = np.array([name in _OF_HARDWARE for name in self._names])
        broken = self.broken(np.where(only, seen[: len(only)], self._mean))
        return None if broken is None else broken[1]

    def broken(self, seen: Floats) -> tuple[str, str] | None:
        """Return (reason, explanation) if a value of `seen` (PPOScheduler.seen) is out of range or not finite."""
        seen = seen[: len(self._low)]
        np.maximum(seen, self._low, out=self._clipped)
        np.minimum(self._clipped, self._high, out=self._clipped)
        # Clipping leaves in-range values unchanged. NaN also survives clipping; `scored` catches it.
        if self._clipped.tobytes() == seen.tobytes():
            return None
        outside = ~((seen >= self._low) & (seen <= self._high))
        worst = int(np.argmax(np.nan_to_num(outside * np.abs(seen - self._mean) / self._std, nan=np.inf)))
        if not np.isfinite(seen[worst]):
            return NOT_FINITE, f"the feature '{self._names[worst]}' is {seen[worst]}"
        deviation = (seen[worst] - self._mean[worst]) / self._std[worst]
        return OUT_OF_RANGE, (
            f"the feature '{self._names[worst]}' is {deviation:+.1f} standard deviations from the mean in training "
            f"(limit {self._limits[worst]:.3g})"
        )


class Guard:
    """Check the decisions of one scheduler. counts: fallbacks by reason."""

    def __init__(self, config: RouterConfig, scheduler: GlobalScheduler) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._gauge_age_limit = config.gauge_age_limit
        self._seconds = config.decision_limit_ms * 1e-3
        self._feature_limit = config.feature_limit
        self._reads_gauges = config.scheduler.get_type() in _READS_GAUGES
        self._late = 0
        self._rests_until = -np.inf
        self.watch(scheduler)

    def watch(self, scheduler: GlobalScheduler) -> None:
        """Check this scheduler from now on."""
        self._scheduler = scheduler
        self._limits = None
        if isinstance(scheduler, PPOScheduler) and scheduler.normaliser is not None:
            self._limits = FeatureLimits(
                scheduler.weights, scheduler.normaliser, scheduler.queue_depth, self._feature_limit
            )

    def hardware(self, observation: ClusterObservation) -> str | None:
        """Return why the scheduler cannot be used for this fleet in any state; None if it can."""
        if self._limits is None or not isinstance(self._scheduler, PPOScheduler):
            return None
        self._scheduler.scores(observation)
        return self._limits.broken_by_hardware(self._scheduler.seen)

    def before(self, observation: ClusterObservation, names: Sequence[str]) -> tuple[str, str] | None:
        """Return (reason, explanation) if the scheduler must not be asked."""
        if observation.now < self._rests_until:
            return RESTING, f"{_LATE_IN_A_ROW} decisions in a row were late, so the scheduler rests {_REST_SECONDS:g} s"
        if self._reads_gauges:
            ages = observation.gauges[:, GAUGE_AGE]
            if np.maximum.reduce(ages) > self._gauge_age_limit:
                old = np.where(observation.available, ages, -np.inf)
                worst = int(old.argmax())
                if old[worst] > self._gauge_age_limit:
                    return STALE_GAUGES, (
                        f"the gauges of {names[worst]} are {ages[worst]:.1f} s old (limit {self._gauge_age_limit:g})"
                    )
        return None

    def scored(self, seen: Floats, scores: Floats) -> tuple[str, str] | None:
        """Return (reason, explanation) if these scores must not be used."""
        broken = None if self._limits is None else self._limits.broken(seen)
        if broken is None and not np.maximum.reduce(scores) < np.inf:
            unknown = np.flatnonzero(~np.isfinite(seen))
            return NOT_FINITE, f"a score is not finite, and neither are {len(unknown)} of the features"
        return broken

    def chosen(self, replica: int, observation: ClusterObservation, seconds: float) -> tuple[str, str] | None:
        """Return (reason, explanation) if this choice, which took `seconds`, must not be used."""
        if seconds > self._seconds:
            self._late += 1
            if self._late >= _LATE_IN_A_ROW:
                self._late = 0
                self._rests_until = observation.now + _REST_SECONDS
            return TOO_LATE, f"the decision took {1e3 * seconds:.1f} ms (limit {1e3 * self._seconds:g})"
        self._late = 0
        if not (0 <= replica < observation.num_replicas and observation.available[replica]):
            return UNAVAILABLE, f"the scheduler chose replica {replica}, which is not available"
        return None
