"""The replicas as the proxy sees them: where each is, whether it gets requests, and what came of them."""

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
    """What is shown of one replica. decisions, finished, failed: counts; ttft, tpot: seconds, averaged over time; 0
    before there is one."""

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
        """closed, half_open or open, as the breaker is; or draining."""
        return self.breaker.state if self.replica.state == SERVING else self.replica.state

    def decided(self, decision: Decision) -> None:
        """Count a decision for this replica."""
        self.tally.decisions += 1
        self.metrics.decision.observe(decision.seconds)

    def served(self, served: Served, is_stream: bool) -> None:
        """Count a request that ended well."""
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
        """It gets no more requests. What it has not begun to answer goes elsewhere, unless it was slow and no worse:
        what takes its time there would take it elsewhere too."""
        LOG.warning("replica %s is ejected: it %s", self.name, failure)
        self.pool.close_idle()
        if not (failure.is_late and self.breaker.healthy):
            self.give_back(failure)

    def give_back(self, failure: ReplicaFailure) -> None:
        """Let what it has not begun to answer go elsewhere."""
        self.pool.fail_unanswered(ReplicaFailure("ejected", f"was ejected: it {failure}"))

    def scrape_failed(self, error: str) -> None:
        self.scrapes_failed += 1
        if error != self.scrape_error:
            LOG.warning("replica %s: its gauges cannot be read: %s", self.name, error)
        self.scrape_error = error


class Backends:
    """The backends in the order of the fleet's replicas, which is the order of the router's arrays."""

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
        """A backend that may be added."""
        return Backend(replica, Breaker(self._breaker), self._connect_timeout)

    def add(self, backend: Backend) -> None:
        self._backends.append(backend)
        self._metrics.replicas[backend.name] = backend.metrics
        self.names = tuple(each.name for each in self._backends)

    def remove(self, number: int) -> Backend:
        """Forget a replica. What it is answering goes on."""
        backend = self._backends.pop(number)
        self.names = tuple(each.name for each in self._backends)
        backend.pool.close_idle()
        del self._metrics.replicas[backend.name]
        return backend

    def available(self, tried: Sequence[Backend] = ()) -> NDArray[np.bool_]:
        """bool[replicas]: which may be given a request that was tried on `tried`."""
        return np.array([backend.admits and backend not in tried for backend in self._backends], np.bool_)

    def retry_after(self) -> float:
        """Seconds until a replica may be back."""
        now = time.monotonic()
        return min((max(backend.breaker.open_until - now, 0.0) for backend in self._backends), default=0.0) + 1.0
