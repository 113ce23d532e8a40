"""The side of the clients: connections that read whole requests within limits, and write what a handler answers.

A handler is a coroutine run as a task for each request; a client that leaves cancels it.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, cast

import httptools

from rl.vllm.http.limits import LimitsConfig
from rl.vllm.http.wire import JSON_TYPE, REASONS, Headers, HttpRequest, error_body, head_bytes, status_line

LINGER_SECONDS = 2.0
MAX_PIPELINED = 64
ROUTER_FAILED = "the router failed"
VERSIONS = ("1.0", "1.1")


Handler: TypeAlias = Callable[[HttpRequest, "ClientConnection"], Coroutine[Any, Any, None]]
Refused: TypeAlias = Callable[[HttpRequest, int, str], None]  # the request, the status, the reason


class Refusal(Exception):
    """A request that is refused before any handler sees it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """Listens, and knows its connections."""

    def __init__(self, limits: LimitsConfig, handler: Handler, refused: Refused) -> None:
        """refused: is told of what no handler sees; of its request, what was read of it."""
        self.limits = limits
        self.handler = handler
        self.refused = refused
        self.connections: set[ClientConnection] = set()
        self.buffered_bytes = 0  # of bodies that are being read or answered
        self.draining = False
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to accept; returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: ClientConnection(self), host, port, backlog=4096)
        return int(self._listener.sockets[0].getsockname()[1])

    async def drain(self, grace: float, hurry: asyncio.Event) -> int:
        """Accept nothing more, let what is under way end within `grace` seconds or until `hurry`, then cut the rest:
        their number."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.close_when_idle()
        deadline = time.monotonic() + grace
        while self.connections and time.monotonic() < deadline and not hurry.is_set():
            await asyncio.sleep(0.02)
        cut = list(self.connections)
        handled = [connection.task for connection in cut if connection.task is not None]
        for connection in cut:
            connection.abort("the router stopped")
        if handled:
            await asyncio.wait(handled, timeout=LINGER_SECONDS)
        return len(cut)


class ClientConnection(asyncio.Protocol):
    """One client. Requests are read one after the other; the next is handled when the answer to the last has ended."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._peer = ""
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.Handle | None = None  # while the client reads slower than it is given
        self.cut_off = ""  # why the router cut this client's answer, if it did
        self.task: asyncio.Task[None] | None = None
        self._closing = False  # after a refusal: what still comes is thrown away
        self._refusal: Refusal | None = None  # of what came behind a request that is still being answered
        self._held_bytes = 0  # of the server's buffered bytes
        self._later = b""  # what came while a request was being answered
        self._waiting: deque[tuple[HttpRequest, bool]] = deque()
        self._source: asyncio.Transport | None = None
        self._new_parser()
        self._new_answer(b"GET", True, True)

    # Reading.

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._reading = ""  # "", "head" or "body"
        self._unaccounted = 0  # bytes of a head, or between two pieces of a body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        self._peer = address[0] if isinstance(address, tuple) else ""
        server = self._server
        server.connections.add(self)
        if len(server.connections) > self._limits.max_connections:
            self._refuse(Refusal(503, f"more than {self._limits.max_connections} connections"))
        elif server.draining:
            self.abort()
        else:
            self._set_timer(self._limits.header_timeout, self._close)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._hold(-self._held_bytes)
        self._closing = True
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self.task is not None:
            self.task.cancel()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refusal is not None:
            return
        if self.task is not None:
            self._later += data
            if len(self._later) > self._limits.max_header_bytes:
                self._transport.pause_reading()
            return
        before = self._reading
        self._unaccounted += len(data)
        try:
            self._feed(data)
            if self._reading and self._unaccounted > self._limits.max_header_bytes:
                raise self._headers_too_large()
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, Refusal):
                raise
            self._refuse(error.__context__)
        except httptools.HttpParserError as error:
            self._refuse(Refusal(400, f"not HTTP/1.1: {error}"))
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            if self._reading != before and self.task is None:
                self._await_client()

    def _feed(self, data: bytes) -> None:
        """Parse. An Upgrade is not taken (RFC 9110, 7.8): as httptools counts all that comes after such a head to the
        other protocol, the head is parsed again without it, and then the body that it announces."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                version = self._parser.get_http_version().encode()
                line = b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)
                kept = [item for item in self._headers if item[0].lower() != b"upgrade"]
                data = head_bytes(line, kept) + data[upgrade.args[0] :]
                self._new_parser()

    def on_message_begin(self) -> None:
        self._reading = "head"
        self._url = b""
        self._headers: Headers = []
        self._fields: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading != "head":  # trailers are dropped
            return
        value = value.rstrip(b" \t")
        self._headers.append((name, value))
        self._head_bytes += len(name) + len(value) + 4
        key = name.lower()
        if key not in self._fields:
            self._fields[key] = value
        elif key == b"host":
            raise Refusal(400, "exactly one Host header is needed")

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            if self._parser.get_method() == b"CONNECT":
                raise Refusal(400, "CONNECT is not served: this is no forward proxy")
            return  # it is parsed once more
        fields = self._fields
        version = self._parser.get_http_version()
        if version not in VERSIONS:
            raise Refusal(505, "the version is not HTTP/1.1")
        if self._head_bytes + len(self._url) > self._limits.max_header_bytes:
            raise self._headers_too_large()
        if self._url[:1] != b"/":
            raise Refusal(400, "the target must be a path: this is no forward proxy")
        if b"host" not in fields and version == "1.1":
            raise Refusal(400, "exactly one Host header is needed")
        if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Refusal(501, "Transfer-Encoding: only chunked is known")
        if int(fields.get(b"content-length", 0)) > self._limits.max_body_bytes:
            raise self._body_too_large()
        if b"expect" in fields:
            self._expect_continue(fields[b"expect"])
        self._reading = "body"
        self._unaccounted = 0

    def _expect_continue(self, expected: bytes) -> None:
        if expected.lower() != b"100-continue":
            raise Refusal(417, "Expect: only 100-continue is known")
        if self.task is None and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._unaccounted = 0
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.max_body_bytes:
            raise self._body_too_large()
        self._hold(len(data))
        if self._server.buffered_bytes > self._limits.max_buffered_bytes:
            raise Refusal(503, "the router holds too many requests' bodies")

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self._server.buffered_bytes += size

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._reading = ""
        self._unaccounted = 0
        request = self._request(self._body[0] if len(self._body) == 1 else b"".join(self._body))
        self._body = []
        http_1_1 = self._parser.get_http_version() == "1.1"
        if len(self._waiting) == MAX_PIPELINED:
            raise Refusal(429, f"more than {MAX_PIPELINED} requests at once on one connection")
        self._waiting.append((request, http_1_1))
        if not http_1_1 or not self._parser.should_keep_alive():
            self._closes_after = request
        if self.task is None:
            self._next()

    def _request(self, body: bytes) -> HttpRequest:
        """What was read last. Before its target has come, the method is not known either."""
        method = self._parser.get_method() if self._url else b""
        path = self._url.partition(b"?")[0]
        return HttpRequest(method, self._url, path, self._headers, self._fields, body, time.monotonic(), self._peer)

    def eof_received(self) -> None:
        """A client that closes its side has left: one that only half-closes cannot be told from it."""

    def _headers_too_large(self) -> Refusal:
        return Refusal(431, f"the headers have more than {self._limits.max_header_bytes} bytes")

    def _body_too_large(self) -> Refusal:
        return Refusal(413, f"the body has more than {self._limits.max_body_bytes} bytes")

    def _header_timeout(self) -> None:
        self._refuse(Refusal(408, f"the headers took more than {self._limits.header_timeout:g} seconds"))

    def _body_timeout(self) -> None:
        self._refuse(Refusal(408, f"the body took more than {self._limits.body_timeout:g} seconds"))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, once the requests before it are answered, and close; but read on for a while, since closing on unread
        data would destroy the answer on its way."""
        if self.task is not None:
            self._refusal = refusal
            return
        request = (
            self._request(b"")
            if self._reading
            else HttpRequest(b"", b"", b"", [], {}, b"", time.monotonic(), self._peer)
        )
        self._server.refused(request, refusal.status, str(refusal))
        self._closing = True
        self._new_answer(b"POST", True, False)
        self.respond(refusal.status, error_body(refusal.status, str(refusal), "invalid_request_error"))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._set_timer(LINGER_SECONDS, self.abort)

    def _await_client(self) -> None:
        """Give the client the time that it may take for what is read next. During an answer it may take any time."""
        if self._reading == "head":
            self._set_timer(self._limits.header_timeout, self._header_timeout)
        elif self._reading == "body":
            self._set_timer(self._limits.body_timeout, self._body_timeout)
        else:
            self._set_timer(self._limits.idle_timeout, self._close)

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call)

    def _close(self) -> None:
        self._transport.close()

    # Handling.

    _closes_after: HttpRequest | None = None
    _answered_bytes = 0  # of the body of the request that is being answered

    def _next(self) -> None:
        request, http_1_1 = self._waiting.popleft()
        if self._timer is not None:
            self._timer.cancel()
        keep = request is not self._closes_after and not self._server.draining
        self._new_answer(request.method, http_1_1, keep)
        self._answered_bytes = len(request.body)
        self.task = self._loop.create_task(self._server.handler(request, self))
        self.task.add_done_callback(self._handled)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self.task = None
        self._hold(-min(self._answered_bytes, self._held_bytes))
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a request's handler failed", "exception": error})
            if not self.answered and not self._closing:
                self._keep = False
                self.respond(500, error_body(500, ROUTER_FAILED, "internal_error"))
        if self._closing:
            return
        if not self._ended or not self._keep:
            # An answer without its end is cut, so that the client cannot take it for a whole one.
            (self._close if self._ended else self.abort)()
        elif self._waiting:
            self._next()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            self._await_client()
            if self._later:
                data, self._later = self._later, b""
                self._transport.resume_reading()
                self.data_received(data)

    def close_when_idle(self) -> None:
        self._keep = False
        if self.task is None and not self._reading:
            self._close()

    def abort(self, why: str = "") -> None:
        self.cut_off = why
        self._transport.abort()

    # Writing.

    def _new_answer(self, method: bytes, http_1_1: bool, keep: bool) -> None:
        self.answered = False  # whether the client has any of the answer's bytes
        self._ended = False
        self._keep = keep
        self._http_1_1 = http_1_1
        self._without_body = method == b"HEAD"
        self._chunked = False
        self._unsent = b""

    def respond(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """A whole answer; JSON unless `headers` say otherwise."""
        fields = [*(headers if headers is not None else [JSON_TYPE]), (b"Content-Length", b"%d" % len(body))]
        self.begin(status, REASONS.get(status, b""), fields, sized=True)
        self.write(body)
        self.finish()

    def begin(self, status: int, reason: bytes, headers: Headers, sized: bool) -> None:
        """Start an answer. `headers`: end to end. sized: they hold a Content-Length, or there is no body; otherwise the
        body is chunked, or ends with the connection for a client of HTTP/1.0. Nothing is sent before the first piece of
        the body, so that another answer can be begun in its place."""
        fields = list(headers)
        self._chunked = False
        if not sized and self._http_1_1:
            self._chunked = not self._without_body
            fields.append((b"transfer-encoding", b"chunked"))
        elif not sized:
            self._keep = False
        if not self._keep:
            fields.append((b"connection", b"close"))
        self._unsent = head_bytes(status_line(status, reason), fields)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._without_body or not data:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(self._unsent + data if self._unsent else data)
        self._unsent = b""
        self.answered = True

    def flush(self) -> None:
        """Send the head, if it still waits for the first piece of the body."""
        if self._unsent:
            self._transport.write(self._unsent)
            self._unsent = b""
            self.answered = True

    def finish(self) -> None:
        """End the answer. Without it, the connection is cut when the handler returns."""
        end = b"0\r\n\r\n" if self._chunked else b""
        if self._unsent or end:
            self._transport.write(self._unsent + end)
            self._unsent = b""
        self._ended = self.answered = True

    def cut(self) -> None:
        """End the answer without its proper end: what is written is sent, then the connection closes."""
        self.flush()
        self._ended = True
        self._keep = False

    def draw_from(self, source: asyncio.Transport | None) -> None:
        """Pause `source` whenever this client reads slower than it gives."""
        if self._write_timer is not None:
            if self._source is not None:
                self._source.resume_reading()
            if source is not None:
                source.pause_reading()
        self._source = source

    def pause_writing(self) -> None:
        # In the loop's next turn, as more may be written in this one.
        self._write_timer = self._loop.call_soon(self._watch_reader, sys.maxsize)
        if self._source is not None:
            self._source.pause_reading()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._source is not None:
            self._source.resume_reading()

    def _watch_reader(self, before: int) -> None:
        """Cut a client that has taken nothing since `before` bytes were left for it."""
        left = self._transport.get_write_buffer_size() + self._bytes_in_kernel()
        if left >= before:
            self.abort(f"it took no byte for {self._limits.write_timeout:g} s (--write_timeout)")
        else:
            self._write_timer = self._loop.call_later(self._limits.write_timeout, self._watch_reader, left)

    def _bytes_in_kernel(self) -> int:
        """What the system holds for the client, which can be megabytes: without it, a client that reads steadily seems
        to rest until a good part of them is taken. Linux alone tells; elsewhere 0."""
        if sys.platform != "linux":
            return 0
        held = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", held)[0])
