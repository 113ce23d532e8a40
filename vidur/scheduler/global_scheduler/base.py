"""What a global scheduler (a router) is, and how one is found by name.

A router that ships is a class around one kernel, `choose`, in the subset of Python that Numba compiles. The simulator
compiles it into its loop; anything else calls it as plain Python, on the same arrays: one piece of code in both worlds.
This package imports neither numba nor torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vidur.registry import Registry
from vidur.scheduler.observation import ClusterObservation, Floats

ChooseKernel = Callable[
    [Floats, Floats, Floats, Floats, NDArray[np.int64], Floats, Floats, Floats],
    int,
]


class GlobalScheduler(ABC):
    """Chooses a replica for each request. Subclass this for a router of your own.

    It is made as `YourScheduler(options, num_replicas, rng)`: `options` is what
    `--custom_global_scheduler_config_options` holds, as a dict; `rng` is the only source of randomness to use.
    """

    @abstractmethod
    def schedule(self, observation: ClusterObservation) -> int:
        """The number of an available replica for the request in `observation.arrival`."""


class KernelScheduler(GlobalScheduler):
    """A router that is one kernel.

    choose(ledger, gauges, hardware, arrival, available, completions, memory, draws) -> replica: the arrays of
    vidur.scheduler.observation; `memory`, float64 and the router's own, holds its parameters and whatever it keeps from
    one decision to the next; `draws`, float64[2], are uniform random numbers in [0, 1) for this decision.
    observes: whether it looks at the replicas at all. reads_gauges: whether it looks at the gauges.
    """

    choose: ClassVar[ChooseKernel]
    observes: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def __init__(self, memory: Floats, rng: np.random.Generator) -> None:
        self.memory = memory
        self._rng = rng

    def draws(self, count: int) -> Floats:
        """float64[count, 2] for the next `count` decisions; zeros for a router that draws nothing."""
        return self._rng.random((count, 2)) if self.random else np.zeros((count, 2))

    def schedule(self, observation: ClusterObservation) -> int:
        return int(
            type(self).choose(
                observation.ledger,
                observation.gauges,
                observation.hardware,
                observation.arrival,
                observation.available.astype(np.int64),
                observation.completions,
                self.memory,
                self.draws(1)[0],
            )
        )


GLOBAL_SCHEDULERS: Registry[type[GlobalScheduler]] = Registry("global scheduler")
