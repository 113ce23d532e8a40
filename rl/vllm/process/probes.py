"""Probe the replicas: /health ejects and readmits them, /metrics gives their gauges."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from rl.vllm.decide.gauges import LARGEST_DATAGRAM, MetricsError, Push, Scrape, parse_metrics, parse_push
from rl.vllm.http.upstream import ReplicaFailure, fetch
from rl.vllm.process.backends import Backend
from rl.vllm.process.config import BreakerConfig, GaugesConfig

TOLERATED_LAG = 0.5  # a timer that is later than this, in seconds, means that the router itself did not run
LOG = logging.getLogger("vidur-router")
Scraped: TypeAlias = Callable[[Backend, Scrape, float], None]
Pushed: TypeAlias = Callable[[Push, float], None]


class Probes:
    """Run two tasks for each replica. Times are of time.monotonic."""

    def __init__(self, breaker: BreakerConfig, gauges: GaugesConfig, scraped: Scraped) -> None:
        self._breaker = breaker
        self._gauges = gauges
        self._scraped = scraped
        self._tasks: dict[Backend, list[asyncio.Task[None]]] = {}

    def start(self, backend: Backend) -> None:
        loop = asyncio.get_running_loop()
        self._tasks[backend] = [
            loop.create_task(self._repeat(probe, backend, interval))
            for probe, interval in (
                (self._probe, self._breaker.health_interval), (self._scrape, self._gauges.scrape_interval),
            )
        ]  # fmt: skip

    def stop(self, backend: Backend) -> None:
        for task in self._tasks.pop(backend):
            task.cancel()

    def stop_all(self) -> None:
        for backend in list(self._tasks):
            self.stop(backend)

    async def _repeat(self, probe: Callable[[Backend], Awaitable[None]], backend: Backend, interval: float) -> None:
        """Probe a replica every `interval` seconds until `stop`."""
        logged = ""
        while backend in self._tasks:
            started = time.monotonic()
            try:
                await probe(backend)
            except Exception as error:
                # An unforeseen error must not end the task: the replica would never be probed again.
                if repr(error) != logged:
                    LOG.exception("a probe of replica %s failed by an error in the router; it continues", backend.name)
                logged = repr(error)
            else:
                logged = ""
            await asyncio.sleep(max(started + interval - time.monotonic(), 0.0))

    async def _probe(self, backend: Backend) -> None:
        started = time.monotonic()
        try:
            status, _ = await fetch(backend.pool, b"/health", self._breaker.health_timeout)
            if status != 200:
                raise ReplicaFailure("unhealthy", f"answered {status} to /health")
        except ReplicaFailure as failure:
            now = time.monotonic()
            if now - started > self._breaker.health_timeout + TOLERATED_LAG:
                LOG.warning("the router did not run for %.1f s, so a late probe is ignored", now - started)
            elif backend.breaker.probe_failed(failure.reason, now, first=not backend.healthy_once):
                backend.eject(failure)
            elif not backend.breaker.admits:
                backend.requeue(failure)  # requests that were sent as it was ejected
        else:
            backend.healthy_once = True
            if backend.breaker.probe_succeeded(time.monotonic()):
                LOG.info("replica %s is healthy again", backend.name)

    async def _scrape(self, backend: Backend) -> None:
        started = time.monotonic()
        try:
            status, body = await fetch(backend.pool, b"/metrics", self._gauges.scrape_timeout)
            if status != 200:
                raise ReplicaFailure(f"status_{status}", f"answered {status} to /metrics")
            scrape = parse_metrics(body.decode())
        except (ReplicaFailure, MetricsError, UnicodeDecodeError) as error:
            backend.scrape_failed(str(error))
            return
        backend.scrape_error = ""
        if backend in self._tasks:  # unless it was removed meanwhile
            self._scraped(backend, scrape, started)


class PushListener(asyncio.DatagramProtocol):
    """Receive the datagrams of the stat-logger plug-in."""

    def __init__(self, pushed: Pushed) -> None:
        self._pushed = pushed
        self.malformed = 0

    def datagram_received(self, data: bytes, address: tuple[str | int, ...]) -> None:
        try:
            if len(data) > LARGEST_DATAGRAM:
                raise MetricsError("the datagram is too long")
            self._pushed(parse_push(data), time.monotonic())
        except MetricsError:
            self.malformed += 1
