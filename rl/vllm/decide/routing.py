"""Route requests to real replicas with the simulator's schedulers, on the router's ledger and gauges."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rl.router.scheduler import PPOScheduler, ppo_maker
from rl.vllm.decide.config import RouterConfig
from rl.vllm.decide.decision_log import FINISHED, DecisionLog, LoggedDecision, copied
from rl.vllm.decide.fleet import DRAINING, SERVING, Fleet, ServedReplica, hardware_facts
from rl.vllm.decide.gauges import Gauges, Push, Scrape
from rl.vllm.decide.guard import FAILED, Guard
from rl.vllm.decide.ledger import Ledger, Served
from vidur.config import BaseGlobalSchedulerConfig, CustomGlobalSchedulerConfig, PPOGlobalSchedulerConfig
from vidur.config.global_scheduler import LeastTokensGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.observation import (
    ARRIVAL_AGE,
    ARRIVAL_COLUMNS,
    ARRIVAL_ORDINAL,
    ARRIVAL_PRIORITY,
    ARRIVAL_PROMPT,
    ARRIVAL_SESSION,
    HARDWARE_COLUMNS,
    ClusterObservation,
    Floats,
)
from vidur.scheduler.routers import GLOBAL_SCHEDULERS, GlobalScheduler, RouterContext
from vidur.scheduler.routers.custom import custom_maker


class Arrival(NamedTuple):
    """A request to be routed. arrived_at: when it was complete, in seconds; session: `session_number`, or -1."""

    prompt_tokens: int
    arrived_at: float
    session: int = -1
    priority: int = 0


class NoReplicaError(Exception):
    """No replica is available."""


@dataclass(slots=True)
class Decision:
    """A routing decision.

    replica: its current number (Router.fleet). scheduler: the name of the one that decided; `least_tokens` if
    `fallback`, a reason of rl.vllm.decide.guard, is set, with its `explanation`. seconds: duration, without the shadow.
    scores: logits float64[replicas], -inf where unavailable, of a scheduler that has them. probabilities: propensities
    float64[replicas], None without exploration. own: the scheduler's choice before exploration, None at a fallback.
    shadow: the shadow's choice.
    """

    replica: int
    scheduler: str
    fallback: str | None = None
    explanation: str | None = None
    seconds: float = 0.0
    scores: Floats | None = None
    probabilities: Floats | None = None
    own: int | None = None
    shadow: int | None = None
    ordinal: int = 0

    @property
    def explored(self) -> bool:
        """Whether exploration changed the scheduler's choice."""
        return self.own is not None and self.own != self.replica

    @property
    def shadow_agrees(self) -> bool | None:
        """Whether scheduler and shadow agree; None if one of them did not choose."""
        return None if self.own is None or self.shadow is None else self.own == self.shadow

    @property
    def entropy(self) -> float | None:
        """The entropy of the scheduler's probabilities, in nats; None without scores."""
        if self.scores is None:
            return None
        probabilities = softmax(self.scores)
        positive = probabilities[probabilities > 0.0]
        return float(-(positive * np.log(positive)).sum())


Maker: TypeAlias = Callable[[RouterContext], GlobalScheduler]


class _Schedulers(NamedTuple):
    """The schedulers for the current replicas. hardware: float64[replicas, HARDWARE_COLUMNS]."""

    hardware: Floats
    scheduler: GlobalScheduler
    fallback: GlobalScheduler
    shadow: GlobalScheduler | None


_Seen: TypeAlias = tuple[Decision, ClusterObservation, tuple[str, ...], float]
_LOGGER = logging.getLogger(__name__)
# A push includes all requests that were sent to the replica this many seconds before it arrived.
PUSH_SECONDS = 0.1


@dataclass
class ShadowCounts:
    """Counts of the requests on which both scheduler and shadow decided."""

    decisions: int = 0
    agreements: int = 0


def softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights


def session_number(text: str) -> int:
    """Return a session's number for `session_hash`, which is the same in every process."""
    return zlib.crc32(text.encode())


def scheduler_maker(config: BaseGlobalSchedulerConfig) -> Maker:
    """Return a function that makes the configured scheduler for a fleet.

    Files are read here, once, so that the schedulers of all fleets decide alike. Raises InputError.
    """
    if isinstance(config, CustomGlobalSchedulerConfig):
        return custom_maker(config)
    if isinstance(config, PPOGlobalSchedulerConfig):
        return ppo_maker(config)
    if config.get_type() == "lookahead":
        # Import numba, through the engine, only if it is needed.
        from vidur.scheduler.routers.lookahead import LookaheadScheduler

        return partial(LookaheadScheduler.from_config, config)
    maker: Maker = partial(GLOBAL_SCHEDULERS.get(config.get_type()).from_config, config)
    return maker


class Router:
    """Route requests and keep the ledger; use it from one thread only.

    Times are seconds on the caller's clock, such as time.monotonic; `clock` measures decisions. fleet, ledger and
    gauges have a row per replica, in the same order; add and remove replicas through the router. Raises InputError for
    a configuration that cannot route.
    """

    def __init__(
        self, config: RouterConfig, started_at: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.config = config
        self.fleet = Fleet(config.groups)
        for replica in config.replicas:
            self.fleet.replicas.append(self.fleet.make(replica))
        self.decisions = 0
        self.shadowed = ShadowCounts()
        self._logged_errors: set[type[Exception]] = set()
        self._clock = clock
        # The decision log has wall-clock times by the caller's clock, whose differences are exact.
        self._wall_offset = time.time() - started_at
        self._scheduler_rng = np.random.default_rng(config.seed)
        self._shadow_rng = np.random.default_rng(config.seed)
        self._explore_rng = np.random.default_rng([config.seed, 1])
        self._simulator = _read_simulator(config)
        self._arrival = np.zeros(ARRIVAL_COLUMNS)
        self._samples = isinstance(config.scheduler, PPOGlobalSchedulerConfig) and config.scheduler.sample
        self._maker = scheduler_maker(config.scheduler)
        self._fallback_maker = scheduler_maker(LeastTokensGlobalSchedulerConfig())
        self._shadow_maker = scheduler_maker(config.shadow) if config.shadow is not None else None
        self._shadow: GlobalScheduler | None = None
        schedulers = self._make_schedulers(self.fleet.replicas)
        self.guard = Guard(config, schedulers.scheduler)
        self._use(schedulers)
        count = len(self.fleet.replicas)
        depth = 0 if schedulers.shadow is None else schedulers.shadow.queue_depth
        self.ledger = Ledger(count, max(depth, schedulers.scheduler.queue_depth))
        self.gauges = Gauges(count, started_at)
        self._decision_log: DecisionLog | None = None
        if config.decision_log is not None:
            self._decision_log = DecisionLog(config.decision_log, config.decision_log_bytes, config.decision_log_files)
        # What to log of the last decision, until it is placed, and of the outstanding requests, by ticket.
        self._seen: _Seen | None = None
        self._pending: dict[int, _Seen] = {}
        self._warn_of_hardware(started_at)

    @property
    def scheduler_name(self) -> str:
        return self.config.scheduler.get_type()

    def decide(self, arrival: Arrival, available: NDArray[np.bool_], now: float) -> Decision:
        """Choose a replica that is available and not draining. Raises NoReplicaError if there is none."""
        started = self._clock()
        observation = self.observe(arrival, available, now)
        if not np.count_nonzero(observation.available):
            raise NoReplicaError("no replica is available")
        decision = self._ask(observation, started)
        decision.ordinal = self.decisions
        if self._shadow is not None:
            self._ask_shadow(self._shadow, decision, observation)
        self.decisions += 1
        if self._decision_log is not None:
            self._seen = (decision, copied(observation), self._names, self._wall_offset + now)
        return decision

    def observe(self, arrival: Arrival, available: NDArray[np.bool_], now: float) -> ClusterObservation:
        """Return what the schedulers observe. Its arrays are views, valid until the next event."""
        row = self._arrival
        row[ARRIVAL_PROMPT] = arrival.prompt_tokens
        row[ARRIVAL_AGE] = now - arrival.arrived_at
        row[ARRIVAL_PRIORITY] = arrival.priority
        row[ARRIVAL_SESSION] = arrival.session
        row[ARRIVAL_ORDINAL] = self.decisions
        return ClusterObservation(
            now=now,
            ledger=self.ledger.observe(now),
            gauges=self.gauges.observe(now),
            hardware=self._hardware,
            available=available & self._serving,
            arrival=row,
            completions=self.ledger.completions,
            placed=self.ledger.placed,
        )

    def _ask(self, observation: ClusterObservation, started: float) -> Decision:
        broken = self.guard.before(observation, self._names)
        if broken is not None:
            return self._fall_back(broken, observation, started)
        scheduler, scores = self.scheduler, None
        try:
            if isinstance(scheduler, PPOScheduler):
                scores = scheduler.scores(observation)
                broken = self.guard.scored(scheduler.seen, scores)
                if broken is not None:
                    return self._fall_back(broken, observation, started)
                chosen = scheduler.choose_by(scores)
            else:
                chosen = int(scheduler.schedule(observation))
        except Exception as error:
            # A user's scheduler may raise any error, and the fallback can decide without it.
            if type(error) not in self._logged_errors:
                self._logged_errors.add(type(error))
                _LOGGER.exception("--scheduler %s failed, so least_tokens decides; further errors of this type are "
                                  "counted, not logged", self.scheduler_name)  # fmt: skip
            return self._fall_back((FAILED, f"the scheduler raised {error!r}"), observation, started)
        seconds = self._clock() - started
        broken = self.guard.chosen(chosen, observation, seconds)
        if broken is not None:
            return self._fall_back(broken, observation, started)
        decision = Decision(chosen, self.scheduler_name, seconds=seconds, scores=scores, own=chosen)
        self._explore(decision, observation.available)
        return decision

    def _ask_shadow(self, shadow: GlobalScheduler, decision: Decision, observation: ClusterObservation) -> None:
        """Record the shadow's choice, and count whether it agrees with the scheduler's."""
        try:
            chosen = int(shadow.schedule(observation))
            if not 0 <= chosen < observation.num_replicas:
                raise IndexError(f"it chose replica {chosen} of {observation.num_replicas}")
        except Exception:
            # A user's scheduler may raise any error, and no request needs the shadow.
            _LOGGER.exception("--shadow failed, and is switched off")
            self._shadow = self._shadow_maker = None
            return
        decision.shadow = chosen
        if decision.own is not None:
            self.shadowed.decisions += 1
            self.shadowed.agreements += chosen == decision.own

    def _explore(self, decision: Decision, available: NDArray[np.bool_]) -> None:
        """Explore as configured, and record the propensities."""
        scores, mode = decision.scores, self.config.explore
        if scores is not None and self._samples:
            # The scheduler itself has sampled.
            decision.probabilities = softmax(scores)
            return
        if mode == "none":
            return
        if mode == "sample":
            assert scores is not None
            probabilities = softmax(scores)
        else:
            probabilities = available * (self.config.explore_fraction / available.sum())
            probabilities[decision.replica] += 1.0 - self.config.explore_fraction
        edges = np.cumsum(probabilities)
        drawn = int(np.searchsorted(edges, self._explore_rng.random() * edges[-1], side="right"))
        decision.replica = min(drawn, int(np.flatnonzero(probabilities)[-1]))
        decision.probabilities = probabilities

    def _fall_back(self, broken: tuple[str, str], observation: ClusterObservation, started: float) -> Decision:
        reason, explanation = broken
        self.guard.counts[reason] += 1
        replica = self._fallback.schedule(observation)
        return Decision(replica, "least_tokens", reason, explanation, self._clock() - started)

    def place(self, decision: Decision, arrival: Arrival, now: float, streams: bool = True) -> int:
        """Enter the request on the replica of the decision, and return its ticket."""
        ticket = self.ledger.place(decision.replica, arrival.prompt_tokens, arrival.arrived_at, now, streams)
        seen = self._seen
        if seen is not None and seen[0] is decision:
            self._pending[ticket] = seen
            self._seen = None
        return ticket

    def stream(self, ticket: int, tokens: int, now: float) -> None:
        """Count `tokens` >= 1 more output tokens."""
        self.ledger.stream(ticket, tokens, now)

    def finish(self, ticket: int, now: float, output_tokens: int | None = None) -> Served:
        """End a successful request. output_tokens: as the replica counted them, if it did."""
        served = self.ledger.finish(ticket, now, output_tokens)
        self._log(ticket, FINISHED, served)
        return served

    def drop(self, ticket: int, now: float, status: str = "failed") -> Served:
        """Remove a request that failed, was cancelled, or will be retried. status: for the decision log."""
        served = self.ledger.drop(ticket, now)
        self._log(ticket, status, served)
        return served

    def close(self) -> None:
        """Close the decision log."""
        if self._decision_log is not None:
            try:
                self._decision_log.close()
            except OSError as error:
                self._end_log(self._decision_log, error)

    def _log(self, ticket: int, status: str, served: Served) -> None:
        pending = self._pending.pop(ticket, None)
        if pending is None or self._decision_log is None:
            return
        decision, observation, replicas, decided_at = pending
        probabilities = decision.probabilities
        if probabilities is None:
            probabilities = np.zeros(observation.num_replicas)
            probabilities[decision.replica] = 1.0
        beta = self.scheduler.beta if isinstance(self.scheduler, PPOScheduler) and not decision.fallback else np.nan
        logged = LoggedDecision(
            observation, replicas, decision.scheduler, beta, decision.replica, probabilities, decision.fallback,
            decision.shadow, decided_at, status, served,
        )  # fmt: skip
        try:
            self._decision_log.write(logged)
        except OSError as error:
            self._end_log(self._decision_log, error)

    def _end_log(self, log: DecisionLog, error: OSError) -> None:
        """Route on without a decision log, as the disk is full or the file cannot be opened."""
        _LOGGER.error("the decision log ends here: %s: %s", log.path, error.strerror or error)
        self._decision_log = None
        self._seen = None
        self._pending.clear()
        with suppress(OSError):  # logged above
            log.close()

    def scraped(self, replica: ServedReplica, scrape: Scrape, now: float) -> None:
        """Take a scrape of the replica's /metrics that was requested at `now`."""
        number = self.fleet.replicas.index(replica)
        self.gauges.update(number, scrape, now)
        self.ledger.settle(number, int(sum(engine.waiting for engine in scrape.engines.values())), now)
        if scrape.kv_tokens is not None and scrape.kv_tokens != replica.kv_tokens:
            replica.kv_tokens = scrape.kv_tokens
            self._use(self._make_schedulers(self.fleet.replicas))

    def pushed(self, push: Push, now: float) -> bool:
        """Take a datagram of the stat logger. Returns False if it is of an unknown replica, or too old."""
        if push.replica not in self._names:
            return False
        number = self._names.index(push.replica)
        if not self.gauges.push(number, push, now):
            return False
        self.ledger.settle(number, self.gauges.waiting(number), now - PUSH_SECONDS)
        return True

    def add(self, replica: ServedReplica, now: float) -> None:
        """Add a replica of `fleet.make`. Raises InputError, with nothing changed, if no scheduler fits it."""
        schedulers = self._make_schedulers([*self.fleet.replicas, replica])
        self.fleet.replicas.append(replica)
        self.ledger.add_replica()
        self.gauges.add_replica(now)
        self._use(schedulers)
        self._warn_of_hardware(now)

    def drain(self, name: str) -> ServedReplica:
        """Send the replica no more requests. Raises InputError if there is none of that name."""
        return self._set_state(name, DRAINING)

    def resume(self, name: str) -> ServedReplica:
        """Send a draining replica requests again. Raises InputError if there is none of that name."""
        return self._set_state(name, SERVING)

    def remove(self, name: str) -> ServedReplica:
        """Remove a replica; those after it move up.

        Raises InputError, with nothing changed, for an unknown name, or if no scheduler can be made for the others.
        """
        number = self.fleet.number(name)
        schedulers = self._make_schedulers([*self.fleet.replicas[:number], *self.fleet.replicas[number + 1 :]])
        replica = self.fleet.replicas.pop(number)
        self.ledger.remove_replica(number)
        self.gauges.remove_replica(number)
        self._use(schedulers)
        return replica

    def _set_state(self, name: str, state: str) -> ServedReplica:
        replica = self.fleet.replicas[self.fleet.number(name)]
        replica.state = state
        self._serving = np.array([replica.state == SERVING for replica in self.fleet.replicas], np.bool_)
        return replica

    def _warn_of_hardware(self, now: float) -> None:
        if not self._names:
            return
        available = np.ones(len(self._names), np.bool_)
        broken = self.guard.hardware(self.observe(Arrival(1, now), available, now))
        if broken is not None:
            _LOGGER.warning("least_tokens decides for every request in place of %s: %s. Check prefill_seconds and "
                            "decode_seconds of --groups, or train a policy on such hardware",
                            self.scheduler_name, broken)  # fmt: skip

    def _make_schedulers(self, replicas: Sequence[ServedReplica]) -> _Schedulers:
        """Make the schedulers for these replicas, which continue the random streams. Raises InputError."""
        if self._simulator is not None and len(self._simulator.replicas) != len(replicas):
            raise InputError(f"--simulation describes {len(self._simulator.replicas)} replicas, not {len(replicas)}: "
                             f"restart with one that does")  # fmt: skip
        hardware = hardware_facts(self.config.groups, replicas)
        # An empty fleet gets schedulers for one replica, so that a wrong checkpoint is refused at once.
        facts = hardware if len(replicas) else np.ones((1, HARDWARE_COLUMNS))
        context = RouterContext(facts, self._scheduler_rng, simulator=self._simulator)
        shadow_context = RouterContext(facts, self._shadow_rng, simulator=self._simulator)
        scheduler, fallback = self._maker(context), self._fallback_maker(context)
        shadow = self._shadow_maker(shadow_context) if self._shadow_maker is not None else None
        return _Schedulers(hardware, scheduler, fallback, shadow)

    def _use(self, schedulers: _Schedulers) -> None:
        """Use these schedulers, which were made for the fleet's replicas, from now on."""
        self._hardware, self.scheduler, self._fallback, self._shadow = schedulers
        self._names = tuple(replica.name for replica in self.fleet.replicas)
        self._serving = np.array([replica.state == SERVING for replica in self.fleet.replicas], np.bool_)
        self.guard.watch(schedulers.scheduler)


def _read_simulator(config: RouterConfig) -> Any:
    """Read the cluster that `lookahead` simulates from --simulation; None without it."""
    if config.simulation is None:
        return None
    from vidur import SimulationConfig
    from vidur.plans import plan_replicas
    from vidur.request_generator import generate_requests
    from vidur.scheduler.routers.lookahead import ReplicaModel

    simulated = SimulationConfig.from_file(Path(config.simulation))
    return ReplicaModel(*plan_replicas(simulated, generate_requests(simulated.request_generator_config)))
