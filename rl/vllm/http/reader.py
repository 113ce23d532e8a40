"""Read whole requests, within limits, from the bytes of a connection."""

from __future__ import annotations

import time
from typing import Protocol

import httptools

from rl.vllm.http.limits import LimitsConfig
from rl.vllm.http.wire import Headers, HttpRequest, head_bytes

VERSIONS = ("1.0", "1.1")
HEAD, BODY = "head", "body"


class Refusal(Exception):
    """A request that is refused before any handler gets it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Requests(Protocol):
    """What the reader calls; each method may raise Refusal."""

    def request_read(self, request: HttpRequest, http_1_1: bool, keep_alive: bool) -> None:
        """Take a whole request. keep_alive: whether the client may send another one."""

    def body_read(self, size: int) -> None:
        """Count the bytes of a piece of a body, which the reader buffers."""

    def client_waits(self) -> None:
        """Let the client, which expects 100 Continue, send its body."""


class RequestReader:
    """Parse the requests of one client. state: HEAD or BODY, which is read now, or "" between requests."""

    def __init__(self, limits: LimitsConfig, peer: str, requests: Requests) -> None:
        self._limits = limits
        self._peer = peer
        self._requests = requests
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.state = ""
        self._unaccounted = 0  # bytes of a head, or between two pieces of a body

    def feed(self, data: bytes) -> None:
        """Parse the next bytes. Raises Refusal."""
        self._unaccounted += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Refusal):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise Refusal(400, f"not HTTP/1.1: {error}") from None
        if self.state and self._unaccounted > self._limits.max_header_bytes:
            raise self._headers_too_large()

    def _parse(self, data: bytes) -> None:
        """Parse, ignoring an Upgrade (RFC 9110, 7.8).

        httptools takes all bytes after the head of an Upgrade for the other protocol: so the head is parsed again
        without the Upgrade header, followed by those bytes.
        """
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                version = self._parser.get_http_version().encode()
                line = b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)
                headers = [item for item in self._headers if item[0].lower() != b"upgrade"]
                data = head_bytes(line, headers) + data[upgrade.args[0] :]
                self._new_parser()

    def partial(self) -> HttpRequest:
        """Return what was read of the current request, which is empty between requests."""
        if self.state:
            return self._request(b"")
        return HttpRequest(b"", b"", b"", [], {}, b"", time.monotonic(), self._peer)

    def _request(self, body: bytes) -> HttpRequest:
        # The parser knows the method once it has read the target.
        method = self._parser.get_method() if self._url else b""
        path = self._url.partition(b"?")[0]
        return HttpRequest(method, self._url, path, self._headers, self._fields, body, time.monotonic(), self._peer)

    def _headers_too_large(self) -> Refusal:
        return Refusal(431, f"the headers have more than {self._limits.max_header_bytes} bytes")

    def _body_too_large(self) -> Refusal:
        return Refusal(413, f"the body has more than {self._limits.max_body_bytes} bytes")

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        self.state = HEAD
        self._url = b""
        self._headers: Headers = []
        self._fields: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state != HEAD:  # trailers are dropped
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
                raise Refusal(400, "CONNECT is not served: this is not a forward proxy")
            return  # `_parse` parses it again
        fields = self._fields
        version = self._parser.get_http_version()
        if version not in VERSIONS:
            raise Refusal(505, "the version is not HTTP/1.1")
        if self._head_bytes + len(self._url) > self._limits.max_header_bytes:
            raise self._headers_too_large()
        if self._url[:1] != b"/":
            raise Refusal(400, "the target must be a path: this is not a forward proxy")
        if b"host" not in fields and version == "1.1":
            raise Refusal(400, "exactly one Host header is needed")
        if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Refusal(501, "Transfer-Encoding: only chunked is supported")
        if int(fields.get(b"content-length", 0)) > self._limits.max_body_bytes:
            raise self._body_too_large()
        if b"expect" in fields:
            if fields[b"expect"].lower() != b"100-continue":
                raise Refusal(417, "Expect: only 100-continue is supported")
            self._requests.client_waits()
        self.state = BODY
        self._unaccounted = 0

    def on_body(self, data: bytes) -> None:
        self._unaccounted = 0
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.max_body_bytes:
            raise self._body_too_large()
        self._requests.body_read(len(data))

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self.state = ""
        self._unaccounted = 0
        request = self._request(self._body[0] if len(self._body) == 1 else b"".join(self._body))
        self._body = []
        http_1_1 = self._parser.get_http_version() == "1.1"
        self._requests.request_read(request, http_1_1, http_1_1 and self._parser.should_keep_alive())
