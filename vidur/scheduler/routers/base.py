"""What a global scheduler (a router) is, and how one is found by name.

A router that ships is a class around one kernel, `choose`, in the subset of Python that Numba compiles. The simulator
compiles it into its loop; anything else calls it as plain Python, on the same arrays: one piece of code in both worlds.
This package imports neither numba nor torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.observation import ClusterObservation, Floats, View
from vidur.registry import Registry

ChooseKernel = Callable[[View, Floats, Floats], int]


def _no_tokens() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class RouterContext:
    """What a router is made from, beside its configuration.

    hardware: float64[replicas, HARDWARE_COLUMNS]. rng: its only source of randomness. prompt_tokens, output_tokens:
    lengths like those of the workload, from which size_split takes its thresholds; empty if unknown. simulator:
    what a router that simulates needs to do so (vidur.scheduler.routers.lookahead); None elsewhere.
    """

    hardware: Floats
    rng: np.random.Generator
    prompt_tokens: NDArray[np.int64] = field(default_factory=_no_tokens)
    output_tokens: NDArray[np.int64] = field(default_factory=_no_tokens)
    simulator: Any = None

    @property
    def num_replicas(self) -> int:
        return len(self.hardware)


class GlobalScheduler(ABC):
    """Chooses a replica for each request. Subclass this for a router of your own.

    It is made as `YourScheduler(options, context)`, which this class keeps as attributes: `options` is the JSON object
    of `--custom_global_scheduler_config_options`, as a dict; `context` is a RouterContext.
    queue_depth: of how many requests without a first token, per replica, it sees age and prompt (QUEUE_AGE).
    """

    queue_depth: int = 0

    def __init__(self, options: Mapping[str, Any], context: RouterContext) -> None:
        self.options = options
        self.context = context

    @abstractmethod
    def schedule(self, observation: ClusterObservation) -> int:
        """The number of an available replica for the request in `observation.arrival`."""


class DrivingScheduler(GlobalScheduler):
    """A router that takes the simulation into its own hands, to decide on many requests at once and to learn from them.

    `drive(simulation, on_slice)` routes every request of a vidur.engine.simulation.Simulation to its end, and calls
    `on_slice(finished)` now and then, which may raise to stop.
    """

    @abstractmethod
    def drive(self, simulation: Any, on_slice: Callable[[int], None]) -> None:
        """Run the simulation to its end."""


class KernelScheduler(GlobalScheduler):
    """A router that is one kernel.

    choose(view, memory, draws) -> replica: `view` is what it sees (vidur.observation.View); `memory`, float64 and the
    router's own, holds its parameters and whatever it keeps from one decision to the next; `draws`, float64[2], are
    uniform random numbers in [0, 1) for this decision.
    observes: 0 if it looks at no replica; 1 if it looks neither at STREAMED_TOKENS nor at GAUGE_AGE; 2 if it may look
    at everything. draws_numbers: whether it uses `draws`. needs_fresh_gauges: whether it is defined on gauges without
    delay only.
    """

    choose: ChooseKernel
    observes: ClassVar[int] = 1
    draws_numbers: ClassVar[bool] = False
    needs_fresh_gauges: ClassVar[bool] = False

    def __init__(self, context: RouterContext, memory: Floats | None = None) -> None:
        super().__init__({}, context)
        # memory[0] is the last choice of routers that let equals take turns, the next one of round_robin.
        self.memory = np.full(1, -1.0) if memory is None else memory
        self._rng = context.rng

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        return cls(context)

    def draw(self, count: int) -> Floats:
        """float64[count, 2] for the next `count` decisions; zeros for a router that draws nothing."""
        return self._rng.random((count, 2)) if self.draws_numbers else np.zeros((count, 2))

    def schedule(self, observation: ClusterObservation) -> int:
        return int(type(self).choose(observation.view, self.memory, self.draw(1)[0]))


GLOBAL_SCHEDULERS: Registry[Any] = Registry("global scheduler")
