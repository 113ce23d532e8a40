"""Datagrams to the router, from a process that must never wait for it."""

from __future__ import annotations

import logging
import socket
import threading

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

    A thread looks the name up, again and again until it is known, as a router may be started later; then it repeats the
    last datagram whenever REPEAT_SECONDS pass without another: an idle engine, which takes no steps, is heard of all
    the same, and a datagram that was lost on its way matters no longer.
    """

    def __init__(self, host: str, port: int) -> None:
        self.lost = 0
        self._last = b""
        self._socket: socket.socket | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(host, port), name="vidur-gauges", daemon=True).start()

    def send(self, datagram: bytes) -> None:
        self._last = datagram
        self._transmit(datagram)

    def close(self) -> None:
        """Repeat nothing any more, and send what is still given to `send` to nobody."""
        self._closed.set()

    def _transmit(self, datagram: bytes) -> None:
        if self._socket is None:
            self.lost += 1
            return
        try:
            self._socket.send(datagram)
        except OSError:  # nobody listens, or the buffer is full: the next one may get through
            self.lost += 1

    def _run(self, host: str, port: int) -> None:
        self._connect(host, port)
        seen = b""
        while not self._closed.wait(REPEAT_SECONDS):
            last = self._last
            # The receiver knows by its number one that is late because a newer one went out just now.
            if last and last is seen:
                self._transmit(last)
            seen = last
        if self._socket is not None:
            self._socket.close()

    def _connect(self, host: str, port: int) -> None:
        complained = False
        while not self._closed.is_set():
            try:
                family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
                connection = socket.socket(family, kind, protocol)
                connection.setblocking(False)
                connection.connect(address)
            except OSError as error:
                if not complained:
                    LOG.warning("vidur: no gauges are pushed until %s:%d is known: %s", host, port, error)
                complained = True
                self._closed.wait(RESOLVE_AGAIN_SECONDS)
            else:
                self._socket = connection
                return
