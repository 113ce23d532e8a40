"""Handle the signals that end a command: Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A second signal within this many seconds counts as the same: `timeout` signals both the process and its group.
_ONE_SIGNAL = 0.5
# Seconds that native code may block the main thread after a signal before the process is ended.
_PATIENCE = 1.0
_SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """While active, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread; a second one ends the process.

    Numba's compiler has callbacks from native code that swallow exceptions; a KeyboardInterrupt lost there is raised
    again. status: 128 plus the number of the signal, or 0.
    """

    def __init__(self, line: str) -> None:
        """line: printed to stderr if the process must end at once."""
        self.status = 0
        self._line = line
        self._came = 0.0
        self._again = False
        self._handled = threading.Event()

    def __enter__(self) -> Interrupts:
        # Only the main thread may set handlers; other threads leave them unchanged.
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        _ACTIVE.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _ACTIVE.remove(self)
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In the block, a signal ends the process even while native code, as a compiler, blocks the main thread.

        A thread waits for the signal, so the block must not fork. Unsaved results are lost.
        """
        if not self._before:
            yield
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(ours,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            theirs.close()
            thread.join()
            ours.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self._handled.set()
        if self.status and not self._again:
            if now - self._came < _ONE_SIGNAL:
                return
            self._end(self.status)
        self._again = False
        self._came = now
        self.status = 128 + number
        raise KeyboardInterrupt

    def _swallowed(self, unraisable: Any) -> None:
        if self.status and issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._again = True
            main = threading.main_thread().ident
            threading.Timer(0.01, signal.pthread_kill, (main, self.status - 128)).start()
        else:
            self._hook(unraisable)

    def _watch(self, wakeups: socket.socket) -> None:
        while received := wakeups.recv(1):
            number = received[0]
            second = self.status and not self._again and time.monotonic() - self._came >= _ONE_SIGNAL
            if number in self._before and (second or not self._handled.wait(_PATIENCE)):
                self._end(self.status or 128 + number)

    def _end(self, status: int) -> None:
        """End the process immediately."""
        sys.stderr.write((_SHOW_CURSOR if sys.stderr.isatty() else "") + self._line + "\n")
        sys.stderr.flush()
        os._exit(status)


_ACTIVE: list[Interrupts] = []


def check() -> None:
    """Raise the KeyboardInterrupt of a signal if it was lost; long loops call this regularly."""
    if any(interrupts.status for interrupts in _ACTIVE):
        raise KeyboardInterrupt
