"""Simulate a configuration: in one call, many in parallel, or decision by decision."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vidur.config import (
    BaseGlobalSchedulerConfig,
    ClusterConfig,
    CustomGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    SimulationConfig,
)
from vidur.config.cluster import only_one_router
from vidur.engine.compile import is_cached, mark_cached
from vidur.engine.engine import Engine
from vidur.engine.plan import EngineOptions, hardware_facts
from vidur.engine.simulation import Simulation
from vidur.errors import InputError
from vidur.learned import make_learned_router
from vidur.metrics.result import SimulationResult
from vidur.observation import ClusterObservation, Floats
from vidur.plans import event_rows, plan_index, plan_replicas
from vidur.prefix_index import IndexOptions
from vidur.request_generator import RequestTable, generate_requests
from vidur.scheduler.routers import (
    GLOBAL_SCHEDULERS,
    DrivingScheduler,
    GlobalScheduler,
    KernelScheduler,
    RouterContext,
)
from vidur.scheduler.routers.custom import load_custom_scheduler
from vidur.scheduler.routers.lookahead import LookaheadScheduler, ReplicaModel

Progress = Callable[[int, int], None]


class Simulator:
    """One simulation. Call `run` to simulate to the end, or make each routing decision yourself:

        simulator = Simulator(config)
        while (observation := simulator.next_decision()) is not None:
            simulator.place(my_choice(observation))
        result = simulator.result()

    requests: replace the configuration's request generator. router: replaces the configured router. Raises InputError
    for a configuration that cannot be simulated.

    With several routers (`num_routers`), a decision and `router` belong to the router that received the request.
    """

    def __init__(
        self,
        config: SimulationConfig,
        requests: RequestTable | None = None,
        router: GlobalScheduler | None = None,
    ) -> None:
        self.config = config
        self.requests = generate_requests(config.request_generator_config) if requests is None else requests
        self.replica_plans, self.hardware_plans, self.batcher = plan_replicas(config, self.requests)
        if router is not None:
            only_one_router(config.cluster_config, "a Simulator that is given its router")
        self._router = router
        self._wall_seconds = 0.0
        self.interrupted = False

    @property
    def router(self) -> GlobalScheduler:
        """The router of the last decision."""
        return self.routers[self.simulation.router if len(self.routers) > 1 else 0]

    @cached_property
    def routers(self) -> tuple[GlobalScheduler, ...]:
        """All routers; they differ only in their random numbers."""
        if self._router is not None:
            return (self._router,)
        count = self.config.cluster_config.num_routers
        seed = np.random.SeedSequence(self.config.seed)
        streams = [seed] if count == 1 else seed.spawn(count)
        routers = tuple(self._make_router(np.random.default_rng(stream)) for stream in streams)
        if isinstance(routers[0], DrivingScheduler):
            only_one_router(self.config.cluster_config, "learning")
        return routers

    def _make_router(self, rng: np.random.Generator) -> GlobalScheduler:
        config = self.config.cluster_config.global_scheduler_config
        context = RouterContext(
            hardware=hardware_facts(self.replica_plans),
            rng=rng,
            prompt_tokens=self.requests.num_prefill_tokens,
            output_tokens=self.requests.num_decode_tokens,
            simulator=ReplicaModel(self.replica_plans, self.hardware_plans, self.batcher),
        )
        if isinstance(config, CustomGlobalSchedulerConfig):
            return load_custom_scheduler(config, context)
        if config.get_type() == "lookahead":
            return LookaheadScheduler.from_config(config, context)
        if isinstance(config, PPOGlobalSchedulerConfig):
            return make_learned_router(config, context)
        router: GlobalScheduler = GLOBAL_SCHEDULERS.get(config.get_type()).from_config(config, context)
        return router

    @cached_property
    def simulation(self) -> Simulation:
        """The driver of the engine, made from the plans on first use."""
        cluster, metrics = self.config.cluster_config, self.config.metrics_config
        routers, router = self.routers, self.routers[0]
        kernel = router if isinstance(router, KernelScheduler) else None
        index = plan_index(cluster, wanted_index(router, cluster), self.config.seed)
        fresh = kernel is not None and kernel.needs_fresh_gauges
        records = metrics.write_metrics and (
            metrics.store_batch_metrics or metrics.store_utilization_metrics or metrics.store_plots
        )
        options = EngineOptions(
            time_limit=self.config.time_limit or np.inf,
            gauge_interval=0.0 if fresh else cluster.gauge_refresh_interval,
            record_rows=records or metrics.store_operation_metrics or metrics.enable_chrome_trace,
            member_rows=metrics.chrome_trace_max_batches if metrics.enable_chrome_trace else 0,
            observed=2 if kernel is None else kernel.observes,
            queue_depth=router.queue_depth,
            routers=entries(self.config.seed, len(self.requests), len(routers)),
            memory=np.zeros((len(routers), 1)),
            index=index,
        )
        if kernel is not None:
            memory, draws = stack_router_state(routers, options.routers)
            options = dataclasses.replace(options, memory=memory, draws=draws)
        engine = Engine(
            self.requests, self.replica_plans, self.hardware_plans, event_rows(cluster.replica_events), options
        )
        return Simulation(engine, self.batcher)

    def run(self, on_progress: Progress | None = None) -> SimulationResult:
        """Simulate to the end, calling `on_progress(finished, total)` regularly.

        A KeyboardInterrupt, from a signal or from `on_progress`, stops the run: the result so far is returned, marked
        partial, and `interrupted` is set.
        """
        total = len(self.requests)

        def on_slice(finished: int) -> None:
            if on_progress is not None:
                on_progress(finished, total)

        simulation = self.simulation
        started = time.perf_counter()
        try:
            router = self.routers[0]
            if isinstance(router, KernelScheduler):
                simulation.compile(type(router).choose)
                started = time.perf_counter()
                simulation.run(type(router).choose, on_slice)
            elif isinstance(router, DrivingScheduler):
                router.drive(simulation, on_slice)
            else:
                while (observation := simulation.next_decision(on_slice)) is not None:
                    simulation.place(int(self.router.schedule(observation)))
                    on_slice(simulation.num_finished)
            mark_cached()
        except KeyboardInterrupt:
            self.interrupted = True
        self._wall_seconds += time.perf_counter() - started
        return self.result()

    def next_decision(self) -> ClusterObservation | None:
        """Run to the next routing decision; None at the end. The arrays are views that the next call changes."""
        return self.simulation.next_decision()

    def place(self, replica: int) -> None:
        """Route the request of the last observation. Raises InputError if that replica is not available."""
        self.simulation.place(replica)

    def result(self) -> SimulationResult:
        """Return the result up to now."""
        return SimulationResult(
            config=self.config,
            recording=self.simulation.engine.recording(self.interrupted),
            hardware=tuple(self.hardware_plans),
            workload=self.requests.source,
            wall_seconds=self._wall_seconds or None,
        )


def announce_compilation() -> None:
    """Say on stderr that compiling takes a while, if the kernels are not cached yet."""
    if not is_cached():
        print("Compiling the simulator for this machine: once, half a minute ...", file=sys.stderr, flush=True)


def entries(seed: int, requests: int, routers: int) -> NDArray[np.int64]:
    """int64[requests]: the router that receives each request, uniformly at random; zeros for one router."""
    # A random stream apart from those of the routers.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(routers,)))
    return rng.integers(routers, size=requests) if routers > 1 else np.zeros(requests, np.int64)


def wanted_index(router: GlobalScheduler, cluster: ClusterConfig) -> IndexOptions | None:
    """Return how the router wants prefixes indexed; None if it reads nothing of prefix caches, or may not.

    Raises InputError if it cannot do without.
    """
    needed = isinstance(router, KernelScheduler) and router.needs_index
    if cluster.prefix_index == "none":
        if needed:
            name = cluster.global_scheduler_config.get_type()
            raise InputError(f"{cluster.flag('prefix_index')} none: {name} needs an index of prefixes; choose own")
        return None
    if isinstance(router, KernelScheduler):
        return (router.index_options(cluster.global_scheduler_config) or IndexOptions()) if needed else None
    return IndexOptions()


def stack_router_state(routers: Sequence[GlobalScheduler], entered: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Stack the routers' memory (a row per router) and draw random numbers (a row per request) for the engine.

    A request that is routed again after a failure uses the same draws.
    """
    kernels = [router for router in routers if isinstance(router, KernelScheduler)]
    memory = np.stack([kernel.memory for kernel in kernels])
    draws = np.zeros((len(entered), 2))
    for number, kernel in enumerate(kernels):
        kernel.memory = memory[number]
        received = entered == number
        draws[received] = kernel.draw(int(received.sum()))
    return memory, draws


def simulate(config: SimulationConfig, requests: RequestTable | None = None) -> SimulationResult:
    """Simulate to the end. The same configuration gives the same result, except `wall_seconds`."""
    return Simulator(config, requests).run()


def simulate_baselines(config: SimulationConfig, requests: RequestTable) -> dict[str, SimulationResult]:
    """Simulate the same requests under each router of `compare_with`, recording requests only."""
    metrics = dataclasses.replace(config.metrics_config, write_metrics=False)
    results = {}
    for name in config.compare_with:
        family = BaseGlobalSchedulerConfig.from_type(name)
        router = family(scheduler=name) if family is CustomGlobalSchedulerConfig else family()
        cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
        baseline = dataclasses.replace(config, cluster_config=cluster, metrics_config=metrics, compare_with=())
        results[name] = simulate(baseline, requests)
    return results


def simulate_many(configs: Iterable[SimulationConfig], workers: int | None = None) -> Iterator[SimulationResult]:
    """Simulate independent configurations on all cores (or in `workers` processes), yielding results in order.

    The first error ends the iteration. One worker runs everything in this process.
    """
    jobs = list(configs)
    count = min(workers or len(os.sched_getaffinity(0)), max(len(jobs), 1))
    if count < 1:
        raise InputError(f"simulate_many: workers must be at least 1, not {workers}")
    if count == 1:
        yield from map(simulate, jobs)
        return
    with ProcessPoolExecutor(count) as pool:
        yield from pool.map(simulate, jobs)
