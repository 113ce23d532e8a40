"""HTTP/1.1 requests, heads as bytes, and the headers that belong to one connection only."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]  # in the order received, names in their own case, duplicates kept

# RFC 9110, section 7.6.1, and two more that belong to one connection by RFC 9110 and 9112.
HOP_BY_HOP = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"trailer",
    b"proxy-authenticate", b"proxy-authorization",
))  # fmt: skip
BODY_METHODS = frozenset((b"POST", b"PUT", b"PATCH"))
JSON_TYPE = (b"Content-Type", b"application/json")
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(slots=True)
class HttpRequest:
    """A whole request.

    target: as sent, percent-encoding untouched; path: its part before a `?`. fields: the first value of each header, by
    lower-case name. received_at: when it was complete, by time.monotonic. peer: the client's address.
    """

    method: bytes
    target: bytes
    path: bytes
    headers: Headers
    fields: dict[bytes, bytes]
    body: bytes
    received_at: float
    peer: str

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, by its lower-case name."""
        return self.fields.get(name)


def authority(host: str, port: int | None) -> str:
    """Format host and port for a URL or a Host header, with an IPv6 address in brackets."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def end_to_end(headers: Headers, leave_out: Collection[bytes] = ()) -> Headers:
    """Return the headers to forward: not the hop-by-hop ones, those that a Connection header names, and `leave_out`.

    leave_out: lower-case names.
    """
    named: set[bytes] = set()
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return [
        item
        for item in headers
        if (key := item[0].lower()) not in HOP_BY_HOP and key not in leave_out and key not in named
    ]


def head_bytes(first_line: bytes, headers: Headers) -> bytes:
    return b"%b\r\n%b\r\n" % (first_line, b"".join([b"%b: %b\r\n" % item for item in headers]))


def status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, reason)


def error_body(status: int, message: str, kind: str) -> bytes:
    """Format an error as OpenAI's API and vLLM do."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()
