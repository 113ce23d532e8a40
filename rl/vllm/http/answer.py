"""Write an answer to a client, at the pace at which the client reads."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import sys
import termios
from collections.abc import Callable

from rl.vllm.http.wire import JSON_TYPE, REASONS, Headers, head_bytes, status_line


class FlowControl:
    """Pause the source of an answer while its client reads too slowly, and cut a client that stops reading."""

    def __init__(self, transport: asyncio.Transport, write_timeout: float, abort: Callable[[str], None]) -> None:
        """abort: closes the connection for the reason given."""
        self._transport = transport
        self._write_timeout = write_timeout
        self._abort = abort
        self._source: asyncio.Transport | None = None
        self._timer: asyncio.Handle | None = None  # while writing is paused

    def draw_from(self, source: asyncio.Transport | None) -> None:
        if self._timer is not None:
            if self._source is not None:
                self._source.resume_reading()
            if source is not None:
                source.pause_reading()
        self._source = source

    def pause_writing(self) -> None:
        # Watch from the loop's next turn, as more may be written in this one.
        self._timer = asyncio.get_running_loop().call_soon(self._watch, sys.maxsize)
        if self._source is not None:
            self._source.pause_reading()

    def resume_writing(self) -> None:
        self.close()
        if self._source is not None:
            self._source.resume_reading()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, before: int) -> None:
        """Cut the client if it has read nothing since `before` bytes were left for it."""
        left = self._transport.get_write_buffer_size() + self._bytes_in_kernel()
        if left >= before:
            self._abort(f"it took no byte for {self._write_timeout:g} s (--write_timeout)")
        else:
            self._timer = asyncio.get_running_loop().call_later(self._write_timeout, self._watch, left)

    def _bytes_in_kernel(self) -> int:
        """Return the bytes in the socket's send buffer, on Linux; elsewhere 0.

        The buffer can hold megabytes: without it, a client that reads steadily seems to have stopped until it has read
        a large part of them.
        """
        if sys.platform != "linux":
            return 0
        size = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", size)[0])


class Answer:
    """The answer to one request.

    begun: the client has some of its bytes. ended: it is complete. keep_alive: the connection stays open after it.
    cut_off: why the router cut the client's answer, if it did.
    """

    __slots__ = (
        "_chunked", "_flow", "_http_1_1", "_transport", "_unsent", "_without_body", "begun", "cut_off", "ended",
        "keep_alive",
    )  # fmt: skip

    def __init__(
        self, transport: asyncio.Transport, flow: FlowControl, method: bytes, http_1_1: bool, keep_alive: bool
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._http_1_1 = http_1_1
        self._without_body = method == b"HEAD"
        self._chunked = False
        self._unsent = b""
        self.begun = self.ended = False
        self.keep_alive = keep_alive
        self.cut_off = ""

    def respond(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a whole answer; JSON unless `headers` say otherwise."""
        fields = [*(headers if headers is not None else [JSON_TYPE]), (b"Content-Length", b"%d" % len(body))]
        self.begin(status, REASONS.get(status, b""), fields, sized=True)
        self.write(body)
        self.finish()

    def begin(self, status: int, reason: bytes, headers: Headers, sized: bool) -> None:
        """Prepare the head with these end-to-end headers. It is sent with the first piece of the body: until then,
        another answer can be begun instead.

        sized: the headers have a Content-Length, or there is no body. Otherwise the body is chunked or, for a client of
        HTTP/1.0, ends with the connection.
        """
        fields = list(headers)
        self._chunked = False
        if not sized and self._http_1_1:
            self._chunked = not self._without_body
            fields.append((b"transfer-encoding", b"chunked"))
        elif not sized:
            self.keep_alive = False
        if not self.keep_alive:
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
        self.begun = True

    def finish(self) -> None:
        """End the answer. Without this, the connection is cut when the handler returns."""
        end = b"0\r\n\r\n" if self._chunked else b""
        if self._unsent or end:
            self._transport.write(self._unsent + end)
            self._unsent = b""
        self.ended = self.begun = True

    def cut(self) -> None:
        """End the answer without its proper end: what is written is sent, then the connection closes."""
        if self._unsent:
            self._transport.write(self._unsent)
            self._unsent = b""
            self.begun = True
        self.ended = True
        self.keep_alive = False

    def draw_from(self, source: asyncio.Transport | None) -> None:
        """Pause reading from `source` whenever the client reads too slowly; None ends that."""
        self._flow.draw_from(source)
