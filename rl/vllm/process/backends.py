"""Keep the proxy's state of each replica: its connections, its breaker, and its counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.vllm.decide.fleet import SERVING, ServedReplica
from rl.vllm.decide.ledger import Served
from rl.vllm.decide.routing import Decision
from rl.vllm.http.upstream import Address, ReplicaFailure, ReplicaPool
from rl.vllm.process.breaker import Breaker
from rl.vllm.process.config import BreakerConfig
from rl.vllm.process.metrics import ReplicaMetrics, RouterMetrics

LOG = logging.getLogger("vidur-router")
SMOOTHING = 0.1  # weight of each new TTFT and TPOT in the averages that the dashboard shows


@dataclass
class Tally:
    """The figures of a replica on the dashboard. ttft, tpot: moving averages in seconds, 0 before the first value."""

    decisions: int = 0
    finished: int = 0
    failed: int = 0
    output_tokens: int = 0
    ttft: float = 0.0
    tpot: float = 0.0


def _smooth(average: float, value: float) -> float:
    return value if average == 0.0 else average + SMOOTHING * (value - average)


class Backend:
    """One replica of the fleet, with its connections and its breaker."""

    def __init__(self, replica: ServedReplica, breaker: Breaker, connect_timeout: float) -> None:
        self.replica = replica
        self.address = Address.of(replica.url)
        self.breaker = breaker
        self.pool = ReplicaPool(self.address, connect_timeout)
        self.healthy_once = False
        self.in_flight = 0
        self.scrape_error = ""
        self.scrapes_failed = 0
        self.tally = Tally()
        self.metrics = ReplicaMetrics()

    @property
    def name(self) -> str:
        return self.replica.name

    @property
    def admits(self) -> bool:
        return self.breaker.admits and self.replica.state == SERVING

    @property
    def state(self) -> str:
        """The state of the breaker: closed, half_open or open; or draining."""
        return self.breaker.state if self.replica.state == SERVING else self.replica.state

    def decided(self, decision: Decision) -> None:
        """Count a decision for this replica."""
        self.tally.decisions += 1
        self.metrics.decision.observe(decision.seconds)

    def served(self, served: Served, is_stream: bool) -> None:
        """Count a request that succeeded."""
        tally, metrics = self.tally, self.metrics
        tally.finished += 1
        tally.output_tokens += served.output_tokens
        metrics.e2e.observe(served.e2e)
        if is_stream and served.ttft is not None:
            tally.ttft = _smooth(tally.ttft, served.ttft)
            metrics.ttft.observe(served.ttft)
            if served.tpot is not None:
                tally.tpot = _smooth(tally.tpot, served.tpot)
                metrics.tpot.observe(served.tpot)

    def failed(self, failure: ReplicaFailure) -> None:
        """Count a failed exchange, which may eject the replica."""
        self.tally.failed += 1
        if self.breaker.request_failed(failure.reason, time.monotonic()):
            self.eject(failure)

    def eject(self, failure: ReplicaFailure) -> None:
        """Stop its idle connections, and requeue its unanswered requests unless the replica is healthy but slow.

        Slow requests would be slow elsewhere too.
        """
        LOG.warning("replica %s is ejected: it %s", self.name, failure)
        self.pool.close_idle()
        if not (failure.is_late and self.breaker.healthy):
            self.requeue(failure)

    def requeue(self, failure: ReplicaFailure) -> None:
        """Fail the requests whose answer has not begun, so that they are tried elsewhere."""
        self.pool.fail_unanswered(ReplicaFailure("ejected", f"was ejected: it {failure}"))

    def scrape_failed(self, error: str) -> None:
        self.scrapes_failed += 1
        if error != self.scrape_error:
            LOG.warning("the gauges of replica %s cannot be read: %s", self.name, error)
        self.scrape_error = error


class Backends:
    """The backends, in the order of the fleet's replicas and of the router's arrays."""

    def __init__(self, breaker: BreakerConfig, connect_timeout: float, metrics: RouterMetrics) -> None:
        self._breaker = breaker
        self._connect_timeout = connect_timeout
        self._metrics = metrics
        self._backends: list[Backend] = []
        self.names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)

    def __getitem__(self, number: int) -> Backend:
        return self._backends[number]

    def number(self, backend: Backend) -> int:
        return self._backends.index(backend)

    def make(self, replica: ServedReplica) -> Backend:
        """Make a backend, to be added later."""
        return Backend(replica, Breaker(self._breaker), self._connect_timeout)

    def add(self, backend: Backend) -> None:
        self._backends.append(backend)
        self._metrics.replicas[backend.name] = backend.metrics
        self.names = tuple(backend.name for backend in self._backends)

    def remove(self, number: int) -> Backend:
        """Remove a replica, which completes its current answers."""
        backend = self._backends.pop(number)
        self.names = tuple(backend.name for backend in self._backends)
        backend.pool.close_idle()
        del self._metrics.replicas[backend.name]
        return backend

    def available(self, tried: Sequence[Backend] = ()) -> NDArray[np.bool_]:
        """Return the replicas that admit requests and are not in `tried`, bool[replicas]."""
        return np.array([backend.admits and backend not in tried for backend in self._backends], np.bool_)

    def retry_after(self) -> float:
        """Return the seconds until a replica may be available again."""
        now = time.monotonic()
        return min((max(backend.breaker.open_until - now, 0.0) for backend in self._backends), default=0.0) + 1.0
