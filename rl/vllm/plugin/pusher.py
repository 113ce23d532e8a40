"""Datagrams to the router, from a process that must never wait for it."""

from __future__ import annotations

import logging
import socket
import threading

LOG = logging.getLogger("vllm.vidur")
RESOLVE_AGAIN_SECONDS = 10.0


def parse_address(text: str) -> tuple[str, int]:
    """host and port of `host:port`; `[::1]:9100` for IPv6. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port, not {text!r}")
    return host, int(port)


class Pusher:
    """Sends to one address. A datagram that cannot be sent at once is lost, and counted in `lost`.

    The name is looked up in a thread, again and again until it is known: a router may be started later.
    """

    def __init__(self, host: str, port: int) -> None:
        self.lost = 0
        self._socket: socket.socket | None = None
        threading.Thread(target=self._connect, args=(host, port), name="vidur-gauges", daemon=True).start()

    def send(self, datagram: bytes) -> None:
        if self._socket is None:
            self.lost += 1
            return
        try:
            self._socket.send(datagram)
        except OSError:  # nobody listens, or the buffer is full: the next one may get through
            self.lost += 1

    def _connect(self, host: str, port: int) -> None:
        complained = False
        never = threading.Event()
        while True:
            try:
                family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
                connection = socket.socket(family, kind, protocol)
                connection.setblocking(False)
                connection.connect(address)
            except OSError as error:
                if not complained:
                    LOG.warning("vidur: no gauges are pushed until %s:%d is known: %s", host, port, error)
                complained = True
                never.wait(RESOLVE_AGAIN_SECONDS)
            else:
                self._socket = connection
                return
