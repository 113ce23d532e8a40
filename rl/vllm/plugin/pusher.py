"""Datagrams to the router, from a process that must never wait for it."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

LOG = logging.getLogger("vllm.vidur")
RESOLVE_AGAIN_SECONDS = 10.0
REPEAT_SECONDS = 0.5


def parse_address(text: str) -> tuple[str, int]:
    """host and port of `host:port`; `[::1]:9100` for IPv6. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port, not {text!r}")
    return host, int(port)


class Pusher:
    """Sends to one address. A datagram that cannot be sent at once is lost, and counted in `lost`.

    One thread looks the name up again and again: a router may be started later, or move. Another repeats the last
    datagram whenever REPEAT_SECONDS pass without one: an idle engine, which takes no steps, is heard of all the same,
    and a datagram that was lost on its way matters no longer.
    """

    def __init__(self, host: str, port: int) -> None:
        self.lost = 0
        self._last = b""
        self._socket: socket.socket | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._follow, args=(host, port), name="vidur-address", daemon=True).start()
        threading.Thread(target=self._repeat, name="vidur-gauges", daemon=True).start()

    def send(self, datagram: bytes) -> None:
        self._last = datagram
        self._transmit(datagram)

    def close(self) -> None:
        """Repeat nothing any more, and send what is still given to `send` to nobody."""
        self._closed.set()

    def _transmit(self, datagram: bytes) -> None:
        connection = self._socket
        if connection is None:
            self.lost += 1
            return
        try:
            connection.send(datagram)
        except OSError:  # nobody listens, or the buffer is full: the next one may get through
            self.lost += 1

    def _repeat(self) -> None:
        seen = b""
        while not self._closed.wait(REPEAT_SECONDS):
            last = self._last
            # The receiver knows by its number one that is late because a newer one went out just now.
            if last and last is seen:
                self._transmit(last)
            seen = last

    def _follow(self, host: str, port: int) -> None:
        """Keep the socket connected to an address of the name; to the last one while the name is not known."""
        current, retired, complained = None, None, False
        while not self._closed.is_set():
            if retired is not None:
                # So long after it was replaced, nobody is sending by it any more.
                retired.close()
                retired = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
                if current not in found:
                    connection = _connect(*found[0])
                    retired, self._socket, current = self._socket, connection, found[0]
                complained = False
            except OSError as error:
                if not complained:
                    kept = "no gauges are pushed" if current is None else f"gauges go to {current[4][0]}"
                    LOG.warning("vidur: %s until the address of %s:%d is known: %s", kept, host, port, error)
                complained = True
            self._closed.wait(RESOLVE_AGAIN_SECONDS)
        for last in (retired, self._socket):
            if last is not None:
                last.close()


def _connect(family: int, kind: int, protocol: int, _: str, address: Any) -> socket.socket:
    """A socket that does not block and sends to `address`. Raises OSError."""
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
