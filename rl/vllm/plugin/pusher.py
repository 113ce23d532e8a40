"""Send datagrams to the router without ever waiting for it."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

LOG = logging.getLogger("vllm.vidur")
RESOLVE_AGAIN_SECONDS = 10.0
REPEAT_SECONDS = 0.5


def parse_address(text: str) -> tuple[str, int]:
    """Split `host:port`, or `[::1]:9100` for IPv6. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port, not {text!r}")
    return host, int(port)


class Pusher:
    """Send to one address. Datagrams that cannot be sent at once are lost, and counted in `lost`.

    A thread resolves the name repeatedly, as the router may start later, or move. Another repeats the last datagram if
    none was sent for REPEAT_SECONDS, so that idle engines are not forgotten and lost datagrams are replaced.
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
        """Stop repeating, and drop further datagrams."""
        self._closed.set()

    def _transmit(self, datagram: bytes) -> None:
        connection = self._socket
        if connection is None:
            self.lost += 1
            return
        try:
            connection.send(datagram)
        except OSError:  # nobody listens, or the buffer is full; the next datagram may succeed
            self.lost += 1

    def _repeat(self) -> None:
        seen = b""
        while not self._closed.wait(REPEAT_SECONDS):
            last = self._last
            # If a newer datagram is sent meanwhile, the receiver drops this one by its number.
            if last and last is seen:
                self._transmit(last)
            seen = last

    def _follow(self, host: str, port: int) -> None:
        """Keep the socket connected to an address of the name, or to the last one while it cannot be resolved."""
        current, retired, complained = None, None, False
        while not self._closed.is_set():
            if retired is not None:
                # So long after its replacement, no send uses it any more.
                retired.close()
                retired = None
            try:
                addresses = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
                if current not in addresses:
                    connection = _connect(*addresses[0])
                    retired, self._socket, current = self._socket, connection, addresses[0]
                complained = False
            except OSError as error:
                if not complained:
                    state = "no gauges are pushed" if current is None else f"gauges go to {current[4][0]}"
                    LOG.warning("vidur: %s until the address of %s:%d is known: %s", state, host, port, error)
                complained = True
            self._closed.wait(RESOLVE_AGAIN_SECONDS)
        for last in (retired, self._socket):
            if last is not None:
                last.close()


def _connect(family: int, kind: int, protocol: int, _: str, address: Any) -> socket.socket:
    """Return a non-blocking socket that sends to `address`. Raises OSError."""
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
