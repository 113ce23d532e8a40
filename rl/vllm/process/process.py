"""Assemble and run vidur-router."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import time
from collections.abc import Coroutine
from typing import Any

from rl.vllm.decide.arrivals import ArrivalReader
from rl.vllm.decide.config import RouterConfig
from rl.vllm.decide.fleet import VllmReplicaConfig
from rl.vllm.decide.gauges import Push, Scrape
from rl.vllm.decide.prompt_length import PromptLength
from rl.vllm.decide.routing import Router
from rl.vllm.http.answer import Answer
from rl.vllm.http.limits import LimitsConfig
from rl.vllm.http.server import Server
from rl.vllm.http.wire import HttpRequest, authority, error_body
from rl.vllm.process.access_log import AccessLog, Unrouted
from rl.vllm.process.admin import AdminToken
from rl.vllm.process.admission import Admission
from rl.vllm.process.backends import Backend, Backends
from rl.vllm.process.config import AdmissionConfig, BreakerConfig, GaugesConfig, ProxyConfig, ServeConfig
from rl.vllm.process.dashboard import Dashboard
from rl.vllm.process.endpoints import Endpoints
from rl.vllm.process.metrics import RouterMetrics
from rl.vllm.process.probes import Probes, PushListener
from rl.vllm.process.proxy import Proxy
from rl.vllm.process.samples import router_samples
from vidur.config.document import read
from vidur.errors import InputError

LOG = logging.getLogger("vidur-router")
TICK_SECONDS = 0.5


class RouterProcess:
    """A running router with all its parts."""

    def __init__(
        self,
        routing: RouterConfig,
        serve: ServeConfig,
        limits: LimitsConfig,
        admission: AdmissionConfig,
        proxy: ProxyConfig,
        breaker: BreakerConfig,
        gauges: GaugesConfig,
    ) -> None:
        """Requires a running event loop. Raises InputError if the configuration cannot be served."""
        self._serve = serve
        self._gauges = gauges
        self._proxy_config = proxy
        self._loop = asyncio.get_running_loop()
        token = AdminToken.read(serve.admin_token_file)
        self.log = AccessLog(serve.access_log or None)
        self.metrics = RouterMetrics(lambda: router_samples(self))
        self.router = Router(routing, time.monotonic())
        self.backends = Backends(breaker, proxy.connect_timeout, self.metrics)
        for replica in self.router.fleet.replicas:
            self.backends.add(self.backends.make(replica))
        self.admission = Admission(admission)
        reader = ArrivalReader(PromptLength(routing.tokenizer), proxy.session_header)
        self.proxy = Proxy(
            proxy, self.backends, self.router, self.admission, self.metrics, reader, token, self.log.write
        )
        self.server = Server(limits, self._handle, self._refused)
        self.dashboard = Dashboard(self)
        self._endpoints = Endpoints(self, token, self._refused)
        self._probes = Probes(breaker, gauges, self._scraped)
        self.pushes = PushListener(self._pushed)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then complete the current answers, or cut them at a second signal.

        Raises InputError if it cannot listen.
        """
        stop, hurry = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
        self._loop.add_signal_handler(signal.SIGHUP, self.log.reopen)
        await self._listen()
        for backend in self.backends:
            self._probes.start(backend)
        # Exempt what exists now from garbage collections, which would delay requests by milliseconds.
        gc.collect()
        gc.freeze()
        ticking = self._loop.create_task(self._tick())
        try:
            await stop.wait()
            LOG.info("stopping with %d requests in flight", self.admission.in_flight)
            cut = await self.server.drain(self._serve.grace, hurry)
            if cut:
                when = "at the second signal" if hurry.is_set() else f"after {self._serve.grace:g} s"
                LOG.warning("cut %d connections %s", cut, when)
        finally:
            ticking.cancel()
            self._probes.stop_all()
            for backend in self.backends:
                backend.pool.close()
            self.router.close()
            self.log.close()
        LOG.info("stopped")

    async def _listen(self) -> None:
        serve, gauges = self._serve, self._gauges
        if gauges.push_port is not None:
            try:
                transport, _ = await self._loop.create_datagram_endpoint(
                    lambda: self.pushes, local_addr=(gauges.push_host, gauges.push_port)
                )
            except OSError as error:
                raise InputError(f"--push_port {gauges.push_port}: {error.strerror or error}") from None
            address = transport.get_extra_info("sockname")
            LOG.info("listening for pushed gauges on udp %s", authority(address[0], address[1]))
        try:
            port = await self.server.listen(serve.host, serve.port)
        except OSError as error:
            raise InputError(f"--host {serve.host} --port {serve.port}: {error.strerror or error}") from None
        LOG.info("listening at http://%s for %d replicas by %s", authority(serve.host, port), len(self.backends),
                 self.router.scheduler_name)  # fmt: skip

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.log.flush()
            self.dashboard.sample()

    def _handle(self, request: HttpRequest, answer: Answer) -> Coroutine[Any, Any, None]:
        path = request.path
        if self._endpoints.has(path):
            return self._endpoints.handle(request, answer)
        if self._proxy_config.passes(path.decode("latin-1")):
            return self.proxy.handle(request, answer)
        return self._not_found(request, answer)

    async def _not_found(self, request: HttpRequest, answer: Answer) -> None:
        message = f"{request.path.decode('latin-1')} is not forwarded to replicas: add it to --pass_paths"
        self._refused(request, 404, message)
        answer.respond(404, error_body(404, message, "not_found_error"))

    def _refused(self, request: HttpRequest, status: int, reason: str) -> None:
        self.metrics.refused[str(status),] += 1
        self.log.write(Unrouted(request, status, reason))

    def _scraped(self, backend: Backend, scrape: Scrape, now: float) -> None:
        self.router.scraped(backend.replica, scrape, now)

    def _pushed(self, push: Push, now: float) -> None:
        self.router.pushed(push, now)

    # The state that the endpoints read and change.

    @property
    def draining(self) -> bool:
        return self.server.draining

    def now(self) -> float:
        """Return the time, in seconds, of the clock of ledger and gauges."""
        return time.monotonic()

    def ready(self) -> bool:
        return any(backend.admits for backend in self.backends)

    def metrics_text(self) -> bytes:
        return self.metrics.text()

    def dashboard_state(self, whole: bool) -> dict[str, Any]:
        return self.dashboard.state(whole)

    def replicas_state(self) -> list[dict[str, Any]]:
        return self.dashboard.replica_states()

    def change_replicas(self, action: str, replica: Any) -> str:
        """Add, drain, resume or remove a replica, and say so. Raises InputError with nothing changed."""
        if action == "add":
            # Everything that can fail comes before the first change.
            added = self.router.fleet.make(_read_replica(replica))
            backend = self.backends.make(added)
            self.router.add(added, time.monotonic())
            self.backends.add(backend)
            self._probes.start(backend)
            done = f"added {added.name}"
        elif not isinstance(replica, str):
            raise InputError(f"{action}: give the replica's name")
        elif action == "remove":
            number = self.router.fleet.number(replica)
            self.router.remove(replica)
            self._probes.stop(self.backends.remove(number))
            done = f"removed {replica}"
        elif action == "drain":
            self.router.drain(replica)
            done = f"draining {replica}"
        else:
            self.router.resume(replica)
            done = f"resumed {replica}"
        LOG.info("replicas: %s", done)
        return done


def _read_replica(document: Any) -> VllmReplicaConfig:
    """Read the replica to add from {"url": ..., "name": ..., "group": ...}. Raises InputError."""
    if not isinstance(document, dict):
        raise InputError('add: give {"url": ..., "name": ..., "group": ...}')
    return read(VllmReplicaConfig, document, "add")


def serve(routing: RouterConfig, *parts: Any) -> None:
    """Serve until SIGTERM or SIGINT. parts: RouterProcess's configurations after the first."""

    async def run() -> None:
        await RouterProcess(routing, *parts).run()

    _raise_descriptor_limit(parts[1].max_connections + parts[2].max_in_flight)
    _run(run(), uvloop_wanted=parts[0].uvloop)


def _raise_descriptor_limit(needed: int) -> None:
    """Raise the limit on open files to its maximum, as each request takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        LOG.warning("the process can open %d files, fewer than the %d that --max_connections and --max_in_flight may "
                    "need: raise ulimit -n, or lower them", hard, needed)  # fmt: skip


def _run(main_task: Coroutine[Any, Any, None], uvloop_wanted: bool) -> None:
    if uvloop_wanted:
        try:
            import uvloop
        except ImportError:
            LOG.info("uvloop is not installed: serving with asyncio's own loop")
        else:
            uvloop.run(main_task)
            return
    asyncio.run(main_task)
