"""Serve clients: read whole requests within limits, and let a handler answer each.

The handler is a coroutine, run as a task for each request, which is cancelled if the client leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeAlias, cast

from rl.vllm.http.answer import Answer, FlowControl
from rl.vllm.http.limits import LimitsConfig
from rl.vllm.http.reader import BODY, HEAD, Refusal, RequestReader
from rl.vllm.http.wire import HttpRequest, error_body

LINGER_SECONDS = 2.0
MAX_PIPELINED = 64
ROUTER_FAILED = "the router failed"

Handler: TypeAlias = Callable[[HttpRequest, Answer], Coroutine[Any, Any, None]]
Refused: TypeAlias = Callable[[HttpRequest, int, str], None]  # the request, the status, the reason


class Server:
    """Listen, and keep track of the connections."""

    def __init__(self, limits: LimitsConfig, handler: Handler, refused: Refused) -> None:
        """refused: is called for each request that no handler gets, with what was read of it."""
        self.limits = limits
        self.handler = handler
        self.refused = refused
        self.connections: set[ClientConnection] = set()
        self.buffered_bytes = 0  # of bodies that are being read or answered
        self.draining = False
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to accept connections and return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: ClientConnection(self), host, port, backlog=4096)
        return int(self._listener.sockets[0].getsockname()[1])

    async def drain(self, grace: float, hurry: asyncio.Event) -> int:
        """Accept nothing more and wait up to `grace` seconds, or until `hurry`, for requests to end.

        Returns the number of connections that had to be cut then.
        """
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        deadline = time.monotonic() + grace
        while self.connections and time.monotonic() < deadline and not hurry.is_set():
            await asyncio.sleep(0.02)
        cut = list(self.connections)
        tasks = [connection.task for connection in cut if connection.task is not None]
        for connection in cut:
            connection.abort("the router stopped")
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_SECONDS)
        return len(cut)


class _Waiting(NamedTuple):
    request: HttpRequest
    http_1_1: bool
    keep_alive: bool


class ClientConnection(asyncio.Protocol):
    """One client. Pipelined requests are read at once, and handled one after the other."""

    _transport: asyncio.Transport
    _reader: RequestReader
    _flow: FlowControl
    _answer: Answer  # the current or the last one

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self._closing = False  # after a refusal: further bytes are dropped
        self._refusal: Refusal | None = None  # of a request behind one that is still being answered
        self._buffered_bytes = 0  # this client's share of the server's
        self._answered_bytes = 0  # of the body of the request that is being answered
        self._unread = b""  # bytes that came while a request was being answered
        self._waiting: deque[_Waiting] = deque()

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        server = self._server
        self._reader = RequestReader(self._limits, address[0] if isinstance(address, tuple) else "", self)
        self._flow = FlowControl(self._transport, self._limits.write_timeout, self.abort)
        self._new_answer(b"GET", http_1_1=True, keep_alive=True)
        server.connections.add(self)
        if len(server.connections) > self._limits.max_connections:
            self._refuse(Refusal(503, f"more than {self._limits.max_connections} connections"))
        elif server.draining:
            self.abort()
        else:
            self._set_timer(self._limits.header_timeout, self._close)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._count_buffered(-self._buffered_bytes)
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._flow.close()
        if self.task is not None:
            self.task.cancel()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refusal is not None:
            return
        if self.task is not None:
            self._unread += data
            if len(self._unread) > self._limits.max_header_bytes:
                self._transport.pause_reading()
            return
        before = self._reader.state
        try:
            self._reader.feed(data)
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            if self._reader.state != before and self.task is None:
                self._await_client()

    def eof_received(self) -> None:
        """Treat a client that closes its side as gone: one that only half-closes looks the same."""

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    # The reader's callbacks.

    def request_read(self, request: HttpRequest, http_1_1: bool, keep_alive: bool) -> None:
        if len(self._waiting) == MAX_PIPELINED:
            raise Refusal(429, f"more than {MAX_PIPELINED} requests at once on one connection")
        self._waiting.append(_Waiting(request, http_1_1, keep_alive))
        if self.task is None:
            self._next()

    def body_read(self, size: int) -> None:
        self._count_buffered(size)
        if self._server.buffered_bytes > self._limits.max_buffered_bytes:
            raise Refusal(503, "the router holds too many requests' bodies")

    def client_waits(self) -> None:
        if self.task is None and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _count_buffered(self, size: int) -> None:
        self._buffered_bytes += size
        self._server.buffered_bytes += size

    # Deadlines and refusals.

    def _await_client(self) -> None:
        """Start the deadline for what the client sends next. While it is being answered, it has none."""
        limits = self._limits
        if self._reader.state == HEAD:
            late = Refusal(408, f"the headers took more than {limits.header_timeout:g} seconds")
            self._set_timer(limits.header_timeout, lambda: self._refuse(late))
        elif self._reader.state == BODY:
            late = Refusal(408, f"the body took more than {limits.body_timeout:g} seconds")
            self._set_timer(limits.body_timeout, lambda: self._refuse(late))
        else:
            self._set_timer(limits.idle_timeout, self._close)

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error, after the answers before it, and close.

        Go on reading for a while: closing on unread data would destroy the answer on its way.
        """
        if self.task is not None:
            self._refusal = refusal
            return
        self._server.refused(self._reader.partial(), refusal.status, str(refusal))
        self._closing = True
        self._new_answer(b"POST", http_1_1=True, keep_alive=False)
        self._answer.respond(refusal.status, error_body(refusal.status, str(refusal), "invalid_request_error"))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._set_timer(LINGER_SECONDS, self.abort)

    # Handling.

    def _new_answer(self, method: bytes, http_1_1: bool, keep_alive: bool) -> None:
        self._answer = Answer(self._transport, self._flow, method, http_1_1, keep_alive)

    def _next(self) -> None:
        request, http_1_1, keep_alive = self._waiting.popleft()
        if self._timer is not None:
            self._timer.cancel()
        self._new_answer(request.method, http_1_1, keep_alive and not self._server.draining)
        self._answered_bytes = len(request.body)
        self.task = self._loop.create_task(self._server.handler(request, self._answer))
        self.task.add_done_callback(self._handled)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self.task = None
        answer = self._answer
        self._count_buffered(-min(self._answered_bytes, self._buffered_bytes))
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a request's handler failed", "exception": error})
            if not answer.begun and not self._closing:
                answer.keep_alive = False
                answer.respond(500, error_body(500, ROUTER_FAILED, "internal_error"))
        if self._closing:
            return
        if not answer.ended:
            self.abort()  # so that the client cannot take the answer for a whole one
        elif not answer.keep_alive:
            self._close()
        elif self._waiting:
            self._next()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            self._await_client()
            if self._unread:
                data, self._unread = self._unread, b""
                self._transport.resume_reading()
                self.data_received(data)

    def close_when_idle(self) -> None:
        """Close the connection after the current request, or now if there is none."""
        self._answer.keep_alive = False
        if self.task is None and not self._reader.state:
            self._close()

    def abort(self, reason: str = "") -> None:
        """Close the connection at once. reason: told to the handler as `cut_off`."""
        self._answer.cut_off = reason
        self._transport.abort()

    def _close(self) -> None:
        self._transport.close()
