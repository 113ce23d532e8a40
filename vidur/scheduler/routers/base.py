"""Base classes of routers (upstream: global schedulers) and their registry.

A built-in router is a class around one kernel, `choose`, in the subset of Python that Numba compiles. The simulator
compiles it into its loop; a router in front of real replicas calls the same code as plain Python on the same arrays.
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
from vidur.prefix_index import IndexOptions
from vidur.registry import Registry

ChooseKernel = Callable[[View, Floats, Floats], int]


def _no_tokens() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class RouterContext:
    """What a router is built from, besides its configuration.

    hardware: float64[replicas, HARDWARE_COLUMNS]. rng: the router's only source of randomness. prompt_tokens,
    output_tokens: lengths of the workload, for size_split's thresholds; empty if unknown. simulator: a
    vidur.scheduler.routers.lookahead.ReplicaModel in a simulation; None in front of real replicas.
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
    """Chooses a replica for each request. Subclass this for your own router.

    The simulator calls `YourScheduler(options, context)`: `options` is the JSON object of
    `--custom_global_scheduler_config_options`, as a dict; `context` is a RouterContext. Both become attributes.
    queue_depth: requests awaiting a first token, per replica, whose age and prompt the router sees (QUEUE_AGE).
    needs_index: whether it reads what the router believes of prefix caches.
    """

    queue_depth: int = 0
    needs_index: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], context: RouterContext) -> None:
        self.options = options
        self.context = context

    @classmethod
    def index_options(cls, config: BaseGlobalSchedulerConfig) -> IndexOptions | None:
        """Return what index of prefixes this router keeps; None: the cluster's, if any."""
        return None

    @abstractmethod
    def schedule(self, observation: ClusterObservation) -> int:
        """Return the number of an available replica for the request in `observation.arrival`."""


class DrivingScheduler(GlobalScheduler):
    """A router that runs the simulation itself, to batch its decisions and to learn from them."""

    @abstractmethod
    def drive(self, simulation: Any, on_slice: Callable[[int], None]) -> None:
        """Run a vidur.engine.simulation.Simulation to its end.

        Call `on_slice(finished requests)` regularly; it may raise to stop.
        """


class KernelScheduler(GlobalScheduler):
    """A router that consists of one kernel.

    choose(view, memory, draws) -> replica: `view` is a vidur.observation.View; `memory`, float64, holds the router's
    parameters and its state between decisions; `draws`, float64[2], are uniform random numbers in [0, 1).
    observes: 0 if it reads no replica's state; 1 if it reads neither STREAMED_TOKENS nor GAUGE_AGE; else 2.
    draws_numbers: whether it uses `draws`. needs_fresh_gauges: whether gauges must be read at each decision.
    """

    choose: ChooseKernel
    observes: ClassVar[int] = 1
    draws_numbers: ClassVar[bool] = False
    needs_fresh_gauges: ClassVar[bool] = False

    def __init__(self, context: RouterContext, memory: Floats | None = None) -> None:
        super().__init__({}, context)
        # memory[0]: the last choice, by which tied replicas take turns.
        self.memory = np.full(1, -1.0) if memory is None else memory
        self._rng = context.rng

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        return cls(context)

    def draw(self, count: int) -> Floats:
        """float64[count, 2]: random numbers for the next `count` decisions; zeros if the router uses none."""
        return self._rng.random((count, 2)) if self.draws_numbers else np.zeros((count, 2))

    def schedule(self, observation: ClusterObservation) -> int:
        return int(type(self).choose(observation.view, self.memory, self.draw(1)[0]))


GLOBAL_SCHEDULERS: Registry[Any] = Registry("global scheduler")
