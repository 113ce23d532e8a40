"""A simulation as a router in front of real replicas would live it: decision by decision, token by token."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import numpy as np

from rl.vllm.decide.config import RouterConfig
from rl.vllm.decide.fleet import HardwareGroupConfig, VllmReplicaConfig
from rl.vllm.decide.gauges import EngineGauges, Scrape
from rl.vllm.decide.routing import Arrival, Router, scheduler_maker
from vidur.config import SimulationConfig
from vidur.engine.plan import hardware_facts
from vidur.engine.replica import iterations_before
from vidur.observation import (
    ARRIVAL_AGE,
    ARRIVAL_PRIORITY,
    ARRIVAL_PROMPT,
    ARRIVAL_SESSION,
    DECODE_SECONDS,
    GROUP_INDEX,
    KV_TOKENS,
    MAX_BATCH_SIZE,
    PREFILL_SECONDS,
    SPEED,
    ClusterObservation,
)
from vidur.plans import plan_replicas
from vidur.request_generator import RequestTable, generate_requests
from vidur.scheduler.routers import RouterContext
from vidur.scheduler.routers.lookahead import ReplicaModel
from vidur.simulator import Simulator

_iterations_before = getattr(iterations_before, "py_func", iterations_before)


class MirroredSimulation:
    """A simulation with the scheduler of `config`, whose batches' members are recorded: `events` are what a router sees
    happen between two decisions."""

    def __init__(
        self, config: SimulationConfig, requests: RequestTable | None = None, lengths_known: bool = False
    ) -> None:
        metrics = dataclasses.replace(
            config.metrics_config, write_metrics=True, enable_chrome_trace=True, chrome_trace_max_batches=10_000_000
        )
        self.config = dataclasses.replace(config, metrics_config=metrics)
        self.requests = generate_requests(config.request_generator_config) if requests is None else requests
        plans = plan_replicas(self.config, self.requests)
        self.hardware = hardware_facts(plans[0])
        context = RouterContext(self.hardware, np.random.default_rng(config.seed), simulator=ReplicaModel(*plans))
        self.scheduler = scheduler_maker(config.cluster_config.global_scheduler_config)(context)
        # The engine draws for all requests when it is made; the router draws for each.
        context.rng.bit_generator.state = np.random.default_rng(config.seed).bit_generator.state
        self.simulator = Simulator(self.config, self.requests, self.scheduler)
        self.engine = self.simulator.simulation.engine
        context.rng.bit_generator.state = np.random.default_rng(config.seed).bit_generator.state
        self._rows = 0
        self._left: dict[int, int] = {}
        self._emitted: dict[int, int] = defaultdict(int)
        self._under_way: dict[int, tuple[float, int]] = {}

    def router_config(self, **settings: object) -> RouterConfig:
        """A router in front of these replicas, told all that the simulated one is told of them."""
        numbers = self.hardware[:, GROUP_INDEX].astype(int)
        firsts = [self.hardware[np.flatnonzero(numbers == number)[0]] for number in range(numbers.max() + 1)]
        groups = [
            HardwareGroupConfig(
                f"g{number}", float(facts[SPEED]), int(facts[KV_TOKENS]), int(facts[MAX_BATCH_SIZE]),
                float(facts[PREFILL_SECONDS]), float(facts[DECODE_SECONDS]),
            )
            for number, facts in enumerate(firsts)
        ]  # fmt: skip
        replicas = [
            VllmReplicaConfig(f"http://127.0.0.1:{8000 + number}", None, f"g{group}")
            for number, group in enumerate(numbers)
        ]
        scheduler = self.config.cluster_config.global_scheduler_config
        given = {"scheduler": scheduler, "seed": self.config.seed, "decision_limit_ms": 1e6, **settings}
        return RouterConfig(tuple(replicas), tuple(groups), **given)  # type: ignore[arg-type]

    @property
    def request(self) -> int:
        """The request of the decision that is due."""
        return int(self.engine.clock.current)

    def place(self, replica: int) -> None:
        self._left[self.request] = int(self.requests.num_prefill_tokens[self.request])
        self.simulator.place(replica)

    def gauges(self) -> tuple[float, list[Scrape]]:
        """When the gauges were read, and each replica's."""
        rows = [Scrape({0: EngineGauges(*map(float, row[:4]))}, None) for row in self.engine.books.gauges]
        return float(self.engine.clock.gauges_at), rows

    def events(self, now: float) -> list[tuple[float, int, int]]:
        """(time, request, tokens) of what has streamed since the last call, before `now`, in the order of time."""
        found: list[tuple[float, int, int]] = []
        state, log = self.engine.state, self.engine.state.log
        for number in range(self._rows, int(self.engine.clock.num_rows)):
            row = log.rows[number]
            replica, count, start, seconds = int(row.replica), int(row.count), row.start, row.iteration_time
            members = log.members[log.member_offsets[number] : log.member_offsets[number + 1]]
            began, done = self._under_way.pop(replica, (-1.0, 0))
            self._emit(found, start, seconds, done if began == start else 0, count, members)
        self._rows = int(self.engine.clock.num_rows)
        for replica, plan in enumerate(state.replicas):
            if plan.in_flight == 0 or plan.run_count <= 1:
                continue
            start, seconds = plan.run_start, plan.run_time
            done = _iterations_before(now, start, seconds, int(plan.run_count))
            members = state.members[replica, 0, : state.batches[replica, 0].num_requests]
            before = self._under_way.get(replica, (start, 0))
            self._emit(found, start, seconds, before[1] if before[0] == start else 0, done, members)
            self._under_way[replica] = (start, done)
        return sorted(found, key=lambda event: event[0])

    def _emit(
        self, found: list[tuple[float, int, int]], start: float, seconds: float, first: int, last: int,
        members: Any,
    ) -> None:  # fmt: skip
        """The tokens of iterations `first` to `last` of a run."""
        for request, tokens in members.tolist():
            left = self._left[request]
            if left == 0 and tokens > 1:
                # It was preempted, and reads its prompt and its own output again.
                left = int(self.requests.num_prefill_tokens[request]) + self._emitted[request]
            if left > 0:
                self._left[request] = left = left - tokens
                if left == 0:
                    found.append((start + last * seconds, request, 1))
                    self._emitted[request] += 1
                continue
            for iteration in range(first + 1, last + 1):
                found.append((start + iteration * seconds, request, 1))
            self._emitted[request] += last - first


class Mirror:
    """A Router kept abreast of a MirroredSimulation. `tickets`: of the outstanding, by the simulation's number."""

    def __init__(self, simulation: MirroredSimulation, router: Router) -> None:
        self.simulation = simulation
        self.router = router
        self.tickets: dict[int, int] = {}
        self._streamed: dict[int, int] = defaultdict(int)
        self._gauges_at = -1.0

    def follow(self, events: list[tuple[float, int, int]]) -> None:
        """Let the router see these tokens, the ends that they are, and the gauges."""
        outputs = self.simulation.requests.num_decode_tokens
        for time, request, tokens in events:
            self.router.stream(self.tickets[request], tokens, time)
            self._streamed[request] += tokens
            if self._streamed[request] == outputs[request]:
                self.router.finish(self.tickets.pop(request), time)
        read_at, gauges = self.simulation.gauges()
        if read_at > self._gauges_at:
            self._gauges_at = read_at
            for replica, scrape in zip(list(self.router.fleet.replicas), gauges, strict=True):
                self.router.scraped(replica, scrape, read_at)

    def arrival(self, observation: ClusterObservation) -> Arrival:
        row = observation.arrival
        arrived_at = float(self.simulation.engine.requests[self.simulation.request].arrived_at)
        assert observation.now - arrived_at == row[ARRIVAL_AGE]
        return Arrival(int(row[ARRIVAL_PROMPT]), arrived_at, int(row[ARRIVAL_SESSION]), int(row[ARRIVAL_PRIORITY]))


def serve(simulation: MirroredSimulation, router: Router) -> None:
    """Let the router decide for all requests of a simulation, to the end of each."""
    mirror = Mirror(simulation, router)
    while (observation := simulation.simulator.next_decision()) is not None:
        mirror.follow(simulation.events(observation.now))
        arrival = mirror.arrival(observation)
        decision = router.decide(arrival, observation.available, observation.now)
        mirror.tickets[simulation.request] = router.place(decision, arrival, observation.now)
        simulation.place(decision.replica)
    mirror.follow(simulation.events(np.inf))
    router.close()
