"""Forward requests to replicas and their answers back to the clients, with retries."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rl.vllm.decide.arrivals import ArrivalReader, ReadArrival
from rl.vllm.decide.routing import Arrival, Decision, NoReplicaError, Router
from rl.vllm.http.answer import Answer
from rl.vllm.http.server import ROUTER_FAILED
from rl.vllm.http.sse import EventCounter, ResponseTail
from rl.vllm.http.upstream import ReplicaConnection, ReplicaFailure, ResponseHead
from rl.vllm.http.wire import BODY_METHODS, JSON_TYPE, Headers, HttpRequest, end_to_end, error_body, head_bytes
from rl.vllm.process.admin import AdminToken
from rl.vllm.process.admission import Admission, Overload
from rl.vllm.process.backends import Backend, Backends
from rl.vllm.process.config import ProxyConfig
from rl.vllm.process.metrics import RouterMetrics

# The paths on which vLLM runs the model, and which are therefore scheduled and kept in the ledger.
SCHEDULED = frozenset((
    b"/v1/completions", b"/v1/chat/completions", b"/v1/chat/completions/batch", b"/v1/responses", b"/v1/messages",
    b"/v1/audio/transcriptions", b"/v1/audio/translations", b"/inference/v1/generate", b"/cohere/v2/chat",
    b"/v1/embeddings", b"/v2/embed", b"/pooling", b"/classify", b"/score", b"/v1/score", b"/generative_scoring",
    b"/rerank", b"/v1/rerank", b"/v2/rerank",
))  # fmt: skip
FAILED_STATUSES = frozenset((500, 502, 503, 504))
CLIENT_LEFT = 499
CUT_UNANSWERED = 503
RECENT = 64  # decisions kept for the dashboard
# Headers that the router replaces or handles itself.
NOT_FORWARDED = frozenset((b"host", b"content-length", b"expect", b"x-forwarded-for"))


class Recent(NamedTuple):
    """A decision on the dashboard. at: seconds since 1970; names: of all replicas then, in the order of the scores."""

    at: float
    replica: str
    names: tuple[str, ...]
    arrival: Arrival
    decision: Decision


class RetryBudget:
    """Limit retries to a share of the requests in the long run, with a reserve for when a replica dies."""

    def __init__(self, reserve: int, ratio: float) -> None:
        self._reserve = float(reserve)
        self._ratio = ratio
        self.left = self._reserve

    def request(self) -> None:
        self.left = min(self.left + self._ratio, self._reserve)

    def take(self) -> bool:
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Exchange:
    """The state of one request, and the sink of its answer, whose tokens it counts.

    read: None for a request that is not scheduled. ticket: its number in the ledger, while it is on a replica. status:
    of the answer; 499 if the client left, 503 if the router cut it off before any answer. first_at: time.monotonic of
    the first token, None before.
    """

    def __init__(self, request: HttpRequest, answer: Answer, router: Router) -> None:
        self.request = request
        self.answer = answer
        self.loop = asyncio.get_running_loop()
        self.read: ReadArrival | None = None
        self.ticket: int | None = None
        self.backend: Backend | None = None
        self.decision: Decision | None = None
        self.status = 0
        self.error = ""
        self.retries = 0
        self.queue_seconds = 0.0
        self.first_at: float | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.is_stream = False
        self._router = router
        self._events = EventCounter()
        self._tail = ResponseTail()

    def begin(self, head: ResponseHead) -> None:
        self.status = head.status
        headers = end_to_end(head.headers)
        self.is_stream = _is_event_stream(headers)
        self.answer.begin(head.status, head.reason, headers, head.sized)

    def body(self, data: bytes) -> None:
        self._tail.feed(data)
        if self.is_stream and (tokens := self._events.feed(data)) > 0:
            now = time.monotonic()
            if self.first_at is None:
                self.first_at = now
            if self.ticket is not None:
                self._router.stream(self.ticket, tokens, now)
        self.answer.write(data)

    def read_usage(self) -> int | None:
        """Take the token counts from the answer's usage. Returns that of the prompt, None without usage."""
        prompt, output = self._tail.usage()
        if prompt is not None:
            self.prompt_tokens = prompt
        self.output_tokens = self._events.events if output is None and self.is_stream else output
        return prompt

    def refuse(self, status: int, message: str, retry_after: float | None = None) -> None:
        """Answer with an error of the router's own."""
        self.status, self.error = status, message
        headers = [JSON_TYPE]
        if retry_after is not None:
            headers.append((b"Retry-After", b"%d" % max(1, math.ceil(retry_after))))
        kind = "rate_limit_error" if status == 429 else "service_unavailable_error"
        self.answer.respond(status, error_body(status, message, kind), headers)

    def break_off(self, failure: ReplicaFailure) -> None:
        """Break off an answer that has begun: send an error event on a stream, and close without a proper end."""
        self.error = f"broken off: {failure}"
        if self.is_stream:
            event = error_body(502, f"the replica {failure}: the answer is incomplete", "bad_gateway_error")
            self.answer.write(b"\n\ndata: %b\n\n" % event)
        self.answer.cut()


def _forwarded_for(request: HttpRequest) -> bytes:
    """Return the X-Forwarded-For header: the request's own, then the client's address."""
    peer = request.peer.encode()
    if b"x-forwarded-for" not in request.fields:
        return peer
    before = [value for name, value in request.headers if name.lower() == b"x-forwarded-for"]
    return b", ".join([*before, peer])


def _is_event_stream(headers: Headers) -> bool:
    """Return whether the body is an event stream without compression."""
    is_stream = False
    for name, value in headers:
        if len(name) == 12 and name.lower() == b"content-type":
            is_stream = value.startswith(b"text/event-stream")
        elif len(name) == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
            return False
    return is_stream


class Proxy:
    """Route the server's requests, and exchange them with the replicas."""

    def __init__(
        self,
        config: ProxyConfig,
        backends: Backends,
        router: Router,
        admission: Admission,
        metrics: RouterMetrics,
        reader: ArrivalReader,
        admin_token: AdminToken,
        record: Callable[[Exchange], None],
    ) -> None:
        """record: is called with each exchange at its end."""
        self._config = config
        self._backends = backends
        self._router = router
        self._admission = admission
        self._metrics = metrics
        self._admin_token = admin_token
        self._record = record
        self._reader = reader
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        self.retries = 0
        self._budget = RetryBudget(config.retry_reserve, config.retry_ratio)

    async def handle(self, request: HttpRequest, answer: Answer) -> None:
        """Answer a request, and count and record it."""
        exchange = Exchange(request, answer, self._router)
        try:
            if request.method == b"POST" and request.body and request.path in SCHEDULED:
                exchange.read = self._reader.read(request)
                exchange.prompt_tokens = exchange.read.arrival.prompt_tokens
            await self._admit(exchange)
        except asyncio.CancelledError:
            if answer.cut_off:
                exchange.status, exchange.error = exchange.status or CUT_UNANSWERED, f"cut: {answer.cut_off}"
                self._metrics.clients_cut += 1
            else:
                exchange.status, exchange.error = CLIENT_LEFT, "the client left"
                self._metrics.clients_left += 1
            raise
        except Exception:  # a bug: recorded here; the server logs it and answers the client
            exchange.error = ROUTER_FAILED
            if not answer.begun:
                exchange.status = 500
            raise
        finally:
            name = exchange.backend.name if exchange.backend is not None else ""
            self._metrics.requests[name, str(exchange.status)] += 1
            self._record(exchange)

    async def _admit(self, exchange: Exchange) -> None:
        asked = time.monotonic()
        try:
            await self._admission.enter()
        except Overload as overload:
            self._metrics.overload += 1
            exchange.refuse(429, f"the router is overloaded: {overload}", 1.0)
            return
        exchange.queue_seconds = time.monotonic() - asked
        self._metrics.queue_seconds.observe(exchange.queue_seconds)
        try:
            self._budget.request()
            await self._try_replicas(exchange)
        finally:
            self._admission.leave()

    async def _try_replicas(self, exchange: Exchange) -> None:
        """Try replicas until one answers, or until replicas, retries or time are exhausted."""
        tried: list[Backend] = []
        suspects: list[tuple[Backend, ReplicaFailure]] = []  # failures that the request may have caused
        last: ReplicaFailure | None = None
        while (backend := self._choose(exchange, tried)) is not None:
            tried.append(backend)
            if last is not None:
                self._count_retry(exchange, last)
            try:
                await self._exchange(exchange, backend, tried)
            except ReplicaFailure as failure:
                self._metrics.errors[backend.name, failure.reason] += 1
                if failure.may_be_of_request and backend.breaker.healthy:
                    suspects.append((backend, failure))
                else:
                    backend.failed(failure)
                if exchange.answer.begun:
                    self._metrics.broken[backend.name,] += 1
                    exchange.break_off(failure)
                    return
                last = failure
                if not self._may_retry(exchange):
                    break
            else:
                if exchange.status < 500:
                    backend.breaker.request_succeeded()
                    for other, other_failure in suspects:
                        other.failed(other_failure)
                return
        if last is None:
            exchange.refuse(503, "no replica is available", self._backends.retry_after())
        else:
            exchange.refuse(504 if "timeout" in last.reason else 502, f"the replica {last}")

    def _choose(self, exchange: Exchange, tried: list[Backend]) -> Backend | None:
        """Choose an untried replica and enter the request into its ledger; None if there is no replica."""
        available = self._backends.available(tried)
        now = time.monotonic()
        if exchange.read is None:
            candidates = [
                backend for backend, is_available in zip(self._backends, available, strict=True) if is_available
            ]
            if not candidates:
                return None
            exchange.backend = min(candidates, key=lambda backend: backend.in_flight)
            return exchange.backend
        try:
            decision = self._router.decide(exchange.read.arrival, available, now)
        except NoReplicaError:
            return None
        backend = self._backends[decision.replica]
        exchange.decision, exchange.backend = decision, backend
        exchange.ticket = self._router.place(decision, exchange.read.arrival, now, exchange.read.streams)
        backend.decided(decision)
        self.recent.append(Recent(time.time(), backend.name, self._backends.names, exchange.read.arrival, decision))
        return backend

    def _count_retry(self, exchange: Exchange, failure: ReplicaFailure) -> None:
        self._budget.take()
        exchange.retries += 1
        self.retries += 1
        self._metrics.retries[failure.reason,] += 1

    def _may_retry(self, exchange: Exchange) -> bool:
        in_time = time.monotonic() < exchange.request.received_at + self._config.answer_timeout
        return in_time and exchange.retries < self._config.max_retries and self._budget.left >= 1

    async def _exchange(self, exchange: Exchange, backend: Backend, tried: list[Backend]) -> None:
        """Send the request to `backend` and pass on its answer. tried: the backends so far, with this one.

        Raises ReplicaFailure; `answer.begun` then tells whether the client has a part of the answer.
        """
        backend.in_flight += 1
        connection: ReplicaConnection | None = None
        status = "cancelled"
        try:
            connection = await backend.pool.acquire()
            try:
                head = await self._send(exchange, backend, connection)
            except ReplicaFailure as failure:
                if not failure.reused:
                    raise
                connection = await backend.pool.acquire(fresh=True)
                head = await self._send(exchange, backend, connection)
            if head.status in FAILED_STATUSES and self._may_retry(exchange) and self._backends.available(tried).any():
                raise ReplicaFailure(f"status_{head.status}", f"answered {head.status}")
            exchange.begin(head)
            exchange.answer.draw_from(connection.transport)
            await connection.relay(exchange, self._config.stream_timeout)
            exchange.answer.finish()
            status = "finished" if head.status < 400 else f"status_{head.status}"
        except ReplicaFailure as failure:
            status = failure.reason
            raise
        finally:
            backend.in_flight -= 1
            exchange.answer.draw_from(None)
            if connection is not None:
                connection.release()
            self._left(exchange, backend, status)

    def _left(self, exchange: Exchange, backend: Backend, status: str) -> None:
        """Remove a request that left its replica from the ledger."""
        if exchange.ticket is None:
            return
        ticket, exchange.ticket = exchange.ticket, None
        now = time.monotonic()
        if status != "finished":
            self._router.drop(ticket, now, status)
            return
        counted = exchange.read_usage()
        served = self._router.finish(ticket, now, exchange.output_tokens)
        backend.served(served, exchange.is_stream)
        if exchange.read is not None and counted is not None:
            self._reader.learn(exchange.read.prompt, counted)

    async def _send(self, exchange: Exchange, backend: Backend, connection: ReplicaConnection) -> ResponseHead:
        request = exchange.request
        headers = self._admin_token.without(end_to_end(request.headers, NOT_FORWARDED))
        headers.append((b"Host", backend.address.authority))
        headers.append((b"X-Forwarded-For", _forwarded_for(request)))
        if request.body or request.method in BODY_METHODS:
            headers.append((b"Content-Length", b"%d" % len(request.body)))
        line = b"%b %b%b HTTP/1.1" % (request.method, backend.address.path, request.target)
        left = request.received_at + self._config.answer_timeout - time.monotonic()
        timeout = max(min(self._config.first_byte_timeout, left), 0.0)
        return await connection.exchange([head_bytes(line, headers), request.body], request.method == b"HEAD", timeout)
