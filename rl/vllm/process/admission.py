"""Limit the requests that are served at once; others wait in a bounded queue, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

from rl.vllm.process.config import AdmissionConfig


class Overload(Exception):
    """The queue is full, or a request waited too long in it."""


class Admission:
    """Call `enter` before a request goes to a replica, and `leave` after it."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self.in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        return sum(not waiting.done() for waiting in self._queue)

    async def enter(self) -> None:
        """Wait for a turn. Raises Overload."""
        if self.in_flight < self._config.max_in_flight:
            self.in_flight += 1
            return
        while self._queue and self._queue[0].done():
            self._queue.popleft()
        if len(self._queue) >= self._config.max_queue and self.queued >= self._config.max_queue:
            raise Overload(f"{self._config.max_in_flight} requests are under way and {self.queued} wait")
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue.append(turn)
        timer = loop.call_later(self._config.queue_timeout, self._time_out, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # pass on the turn, which came too late
            raise
        finally:
            timer.cancel()

    def _time_out(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_exception(Overload(f"waited {self._config.queue_timeout:g} s for a turn"))

    def leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)  # in_flight stays the same
                return
        self.in_flight -= 1
