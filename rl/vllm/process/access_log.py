"""Write an access log with one line of JSON per request."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rl.vllm.http.wire import HttpRequest
from vidur.errors import InputError

if TYPE_CHECKING:
    from rl.vllm.process.proxy import Exchange

LOG = logging.getLogger("vidur-router")
CHUNK_LINES, MOST_CHUNKS = 1000, 64
CLOSE_SECONDS = 5.0
STANDARD_OUTPUT = "-"


@dataclass(frozen=True)
class Unrouted:
    """A request that was refused before it was routed, with the fields of an Exchange that the log reads."""

    request: HttpRequest
    status: int
    error: str
    decision: ClassVar[None] = None
    backend: ClassVar[None] = None
    first_at: ClassVar[None] = None
    prompt_tokens: ClassVar[None] = None
    output_tokens: ClassVar[None] = None
    is_stream: ClassVar[bool] = False
    queue_seconds: ClassVar[float] = 0.0
    retries: ClassVar[int] = 0


class AccessLog:
    """Write to a file, to standard output (`-`), or nowhere (None).

    A thread writes, so that a stalled reader or a full disk delays no request; lines that pile up behind it are
    dropped, and counted in `dropped`. Raises InputError if the file cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        self.dropped = 0
        self._path = path
        self._file = None if path is None else _open(path)
        self._moved = False  # tells the thread to reopen the file
        self._lines: list[str] = []
        self._chunks: queue.Queue[str | None] = queue.Queue(MOST_CHUNKS)
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        if self._file is not None:
            self._thread.start()

    def write(self, exchange: Exchange | Unrouted) -> None:
        """Add a line, to be written by the next `flush` or once there are CHUNK_LINES."""
        if self._file is None:
            return
        request, decision, backend = exchange.request, exchange.decision, exchange.backend
        seconds = time.monotonic() - request.received_at
        first_at = exchange.first_at
        # Formatted by hand, as every request pays for it; json.dumps encodes only the texts.
        self._lines.append(
            f'{{"time": {time.time() - seconds:.6f}, "client": {_text(request.peer)}, '
            f'"method": {_text(request.method.decode("latin-1") or None)}, '
            f'"path": {_text(request.path.decode("latin-1") or None)}, '
            f'"status": {exchange.status}, "replica": {_text(backend.name if backend is not None else None)}, '
            f'"scheduler": {_text(decision.scheduler if decision is not None else None)}, '
            f'"fallback": {_text(decision.fallback if decision is not None else None)}, '
            f'"stream": {_text(exchange.is_stream)}, "prompt_tokens": {_text(exchange.prompt_tokens)}, '
            f'"output_tokens": {_text(exchange.output_tokens)}, "queue_s": {exchange.queue_seconds:.6f}, '
            f'"ttft_s": {"null" if first_at is None else f"{first_at - request.received_at:.6f}"}, '
            f'"e2e_s": {seconds:.6f}, "retries": {exchange.retries}, "error": {_text(exchange.error or None)}, '
            f'"request_id": {_text(_decoded(request.header(b"x-request-id")))}}}\n'
        )
        if len(self._lines) >= CHUNK_LINES:
            self.flush()

    def flush(self) -> None:
        if not self._lines:
            return
        try:
            self._chunks.put_nowait("".join(self._lines))
        except queue.Full:
            self.dropped += len(self._lines)
        self._lines = []

    def reopen(self) -> None:
        """Open the file by its name again, after it was renamed; keep the old one if that fails."""
        if self._path in (None, STANDARD_OUTPUT):
            LOG.info("the access log is not a file: there is nothing to reopen")
            return
        self._moved = True
        self.flush()
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well
            self._chunks.put_nowait("")

    def close(self) -> None:
        """Write the remaining lines, for up to CLOSE_SECONDS."""
        if self._file is None:
            return
        self.flush()
        try:
            self._chunks.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _write(self) -> None:
        assert self._file is not None
        while (chunk := self._chunks.get()) is not None:
            if self._moved:
                self._moved = False
                self._open_again()
            left = memoryview(chunk.encode())
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                self.dropped += chunk.count("\n")
                LOG.warning("the access log cannot be written: %s", error.strerror)

    def _open_again(self) -> None:
        assert self._path is not None and self._file is not None
        try:
            fresh = _open(self._path)
        except InputError as error:
            LOG.warning("%s: keeping the file that is open", error)
            return
        os.close(self._file)
        self._file = fresh
        LOG.info("reopened %s", self._path)


def _open(path: str) -> int:
    """Return a file descriptor. A Python file would lock its buffer, and a stuck thread would then hang the exit."""
    if path == STANDARD_OUTPUT:
        return sys.stdout.fileno()
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"--access_log {path}: {error.strerror}") from None


_text = functools.lru_cache(1024, typed=True)(json.dumps)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
