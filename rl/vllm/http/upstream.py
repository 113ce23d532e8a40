"""Exchange requests and answers with replicas over pools of kept-alive connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import NamedTuple, Protocol, cast
from urllib.parse import quote, urlsplit

import httptools

from rl.vllm.http.wire import Headers, authority, head_bytes

MAX_IDLE = 512
LATE_SECONDS = 0.05
MAX_HEAD_BYTES = 256 * 1024
# Less than the 5 s after which vLLM's server closes an idle connection.
IDLE_SECONDS = 4.0


class Address(NamedTuple):
    """The address of a replica. authority: its Host header; path: a prefix for the path of each request."""

    host: str
    port: int
    secure: bool
    authority: bytes
    path: bytes

    @classmethod
    def of(cls, url: str) -> Address:
        """Split a replica's checked URL, such as http://HOST:PORT/PATH."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        name = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
        port = parts.port or (443 if secure else 80)
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=")
        return cls(parts.hostname, port, secure, authority(name, parts.port).encode(), path.encode())


class ReplicaFailure(Exception):
    """A replica that gave no answer, or an incomplete one.

    reason: a word for the metrics. reused: a kept-alive connection closed without a byte, which a server may do at any
    time, so the replica may be well.
    """

    def __init__(self, reason: str, detail: str, reused: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.reused = reused

    @property
    def may_be_of_request(self) -> bool:
        """Whether the request, rather than the replica, may be the cause."""
        return self.reason == "timeout" or self.reason.startswith("status_")

    @property
    def is_late(self) -> bool:
        """Whether the replica was connected, but sent nothing in time."""
        return self.reason in ("timeout", "stream_timeout")


class ResponseHead(NamedTuple):
    """The status line and headers of an answer. sized: the body's length is known, or there is no body."""

    status: int
    reason: bytes
    headers: Headers
    sized: bool


class Sink(Protocol):
    """A receiver of a body, piece by piece."""

    def body(self, data: bytes) -> None: ...


class ReplicaConnection(asyncio.Protocol):
    """A connection with one exchange at a time: `exchange` returns an answer's head, `relay` its body."""

    def __init__(self, pool: ReplicaPool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.idle_since = 0.0
        self.used = False
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[ResponseHead] | None = None
        self._end: asyncio.Future[None] | None = None
        self._received_at = 0.0
        self._watcher: asyncio.TimerHandle = cast(asyncio.TimerHandle, None)
        self._without_body = False
        self._reset()

    def _reset(self) -> None:
        self._status = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._sink: Sink | None = None
        self._parts: list[bytes] = []
        self._in_body = self._complete = self._until_close = self._keeps_alive = False
        self._failure: ReplicaFailure | None = None
        self.received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._pool.open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.forget(self)
        if self._until_close and error is None:
            self._complete = True
            self._deliver()
        elif not self._complete:
            self._fail(ReplicaFailure("closed", "closed the connection", self.used and not self.received_bytes))

    @property
    def awaits_answer(self) -> bool:
        return self._head is not None and not self._head.done()

    def fail(self, failure: ReplicaFailure) -> None:
        """Give up the exchange, as if the replica had closed the connection."""
        self._fail(failure)
        self.transport.abort()

    def _fail(self, failure: ReplicaFailure) -> None:
        if self._failure is None:
            self._failure = failure
        for future in (self._head, self._end):
            if future is not None and not future.done():
                future.set_exception(self._failure)

    def data_received(self, data: bytes) -> None:
        if self._head is None:  # unexpected bytes
            self.transport.abort()
            return
        self.received_bytes += len(data)
        self._received_at = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(ReplicaFailure("bad_response", "switched protocols"))
            return
        except httptools.HttpParserError as error:
            if not self._complete:
                self.fail(ReplicaFailure("bad_response", f"did not answer in HTTP: {error}"))
                return
            self.transport.abort()  # there is more after the answer
        if not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.fail(ReplicaFailure("bad_response", "headers without end"))
                return
        if self._parts or self._complete:
            self._deliver()

    def _deliver(self) -> None:
        if self._sink is not None and self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            try:
                self._sink.body(data)
            except ReplicaFailure as failure:
                self.fail(failure)
                return
        if self._complete and self._end is not None and not self._end.done():
            self._end.set_result(None)

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        if self._complete:
            self.transport.abort()

    def on_status(self, status: bytes) -> None:
        if not self._complete:
            self._status += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body and not self._complete:  # trailers are dropped
            self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete or status < 200:
            return
        self._in_body = True
        sized = status in (204, 304) or self._without_body
        chunked = False
        for name, _ in self._headers:
            if len(name) == 14 and name.lower() == b"content-length":
                sized = True
            elif len(name) == 17 and name.lower() == b"transfer-encoding":
                chunked = True
        self._until_close = not sized and not chunked
        self._keeps_alive = self._parser.should_keep_alive() and not self._until_close and not self._without_body
        if self._without_body:
            self._complete = True
        assert self._head is not None
        if not self._head.done():
            self._head.set_result(ResponseHead(status, self._status, self._headers, sized))

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._complete = True
        else:  # an interim answer, 100 or 103: the final one follows
            self._status, self._headers = b"", []

    # What the proxy calls.

    async def exchange(self, message: list[bytes], without_body: bool, timeout: float) -> ResponseHead:
        """Send a request and return the head of its answer. without_body: the method is HEAD.

        Raises ReplicaFailure, also if there is no head after `timeout` seconds.
        """
        self._reset()
        self._without_body = without_body
        self._head = self._end = None
        if self.transport.is_closing():
            raise ReplicaFailure("closed", "closed the connection", self.used)
        self._head = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._time_out, timeout)
        try:
            self.transport.writelines(message)
            return await self._head
        finally:
            timer.cancel()

    def _time_out(self, timeout: float) -> None:
        self.fail(ReplicaFailure("timeout", f"gave no answer in {timeout:.3g} s"))

    async def relay(self, sink: Sink, pause: float) -> None:
        """Pass the body to `sink` until its end.

        Raises ReplicaFailure if the body breaks off, or if no byte comes for `pause` seconds.
        """
        self._sink = sink
        self._deliver()
        if self._failure is not None:
            raise self._failure
        if self._complete:
            return
        self._end = self._loop.create_future()
        self._watch(pause, self._received_at)
        try:
            await self._end
        finally:
            self._watcher.cancel()

    def _watch(self, pause: float, since: float) -> None:
        """Fail the exchange if no byte comes for `pause` seconds, unless the sink has paused the connection."""
        left = since + pause - time.monotonic()
        if left > 0:
            self._watcher = self._loop.call_later(left, lambda: self._watch(pause, self._received_at))
        elif not self.transport.is_reading():
            self._watch(pause, time.monotonic())
        else:
            self.fail(ReplicaFailure("stream_timeout", f"sent nothing for {pause:g} s"))

    def release(self) -> None:
        """Keep the connection for the next exchange if its answer is complete; otherwise close it."""
        self._sink = None
        if self._complete and self._keeps_alive:
            self._head = self._end = None
            self._pool.keep(self)
        else:
            self._complete = True
            self.transport.abort()


class ReplicaPool:
    """The connections to one replica."""

    def __init__(self, address: Address, connect_timeout: float) -> None:
        self.address = address
        self.open: set[ReplicaConnection] = set()
        self._idle: deque[ReplicaConnection] = deque()  # the one used last is taken first
        self._connect_timeout = connect_timeout
        self._ssl = ssl.create_default_context() if address.secure else None

    async def acquire(self, fresh: bool = False) -> ReplicaConnection:
        """Return an idle connection, or a new one if there is none or `fresh` is set. Raises ReplicaFailure."""
        loop = asyncio.get_running_loop()
        oldest = time.monotonic() - IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().transport.close()
        while self._idle and not fresh:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        connecting = loop.create_task(
            loop.create_connection(lambda: ReplicaConnection(self), self.address.host, self.address.port, ssl=self._ssl)
        )
        try:
            if not (await asyncio.wait((connecting,), timeout=self._connect_timeout))[0]:
                # If the process was suspended, the timer fires before events that came meanwhile are handled.
                await asyncio.wait((connecting,), timeout=LATE_SECONDS)
            if connecting.done():
                return connecting.result()[1]
        except asyncio.CancelledError:
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                connecting.result()[1].transport.abort()
            raise
        except OSError as error:
            reason = "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"
            raise ReplicaFailure(reason, f"cannot be reached: {error.strerror or error}") from None
        finally:
            connecting.cancel()
        raise ReplicaFailure("connect_timeout", f"accepted no connection within {self._connect_timeout:g} s")

    def keep(self, connection: ReplicaConnection) -> None:
        connection.used = True
        connection.idle_since = time.monotonic()
        if connection.transport.is_closing() or len(self._idle) >= MAX_IDLE:
            connection.transport.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: ReplicaConnection) -> None:
        self.open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close_idle(self) -> None:
        while self._idle:
            self._idle.pop().transport.close()

    def fail_unanswered(self, failure: ReplicaFailure) -> None:
        """Give up every exchange whose answer has not begun, so that the requests can go elsewhere."""
        for connection in [connection for connection in self.open if connection.awaits_answer]:
            connection.fail(failure)

    def close(self) -> None:
        for connection in list(self.open):
            connection.transport.abort()


class _Collected:
    """A sink that keeps a body of up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.data = b""
        self._limit = limit

    def body(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > self._limit:
            raise ReplicaFailure("bad_response", f"sent more than {self._limit} bytes")


async def fetch(pool: ReplicaPool, path: bytes, timeout: float, limit: int = 8 * 2**20) -> tuple[int, bytes]:
    """GET `path` from a replica and return status and body. Raises ReplicaFailure, also after `timeout` seconds."""
    try:
        return await asyncio.wait_for(_fetch(pool, path, timeout, limit), timeout)
    except (TimeoutError, asyncio.TimeoutError):
        raise ReplicaFailure("timeout", f"gave no complete answer to {path.decode()} in {timeout:g} s") from None


async def _fetch(pool: ReplicaPool, path: bytes, timeout: float, limit: int) -> tuple[int, bytes]:
    line = b"GET %b%b HTTP/1.1" % (pool.address.path, path)
    message = [head_bytes(line, [(b"Host", pool.address.authority), (b"Accept", b"*/*")])]
    connection = await pool.acquire()
    try:
        try:
            head = await connection.exchange(message, False, timeout)
        except ReplicaFailure as failure:
            if not failure.reused:
                raise
            connection = await pool.acquire(fresh=True)
            head = await connection.exchange(message, False, timeout)
        collected = _Collected(limit)
        await connection.relay(collected, timeout)
        return head.status, collected.data
    finally:
        connection.release()
