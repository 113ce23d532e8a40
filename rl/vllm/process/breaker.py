"""A circuit breaker: a replica that fails again and again gets no requests until a probe finds it well."""

from __future__ import annotations

from rl.vllm.process.config import BreakerConfig

CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"
STATES = (CLOSED, HALF_OPEN, OPEN)


class Breaker:
    """closed: all is well. open: no requests until `open_until` has passed and a probe succeeds. half_open: requests
    again, of which the first that fails opens it and the first that succeeds closes it. Times: any monotonic clock."""

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self.state = CLOSED
        self.reason = ""
        self.opened = 0  # times
        self.open_until = 0.0
        self._failures = 0
        self._failed_probes = 0
        self._seconds = config.breaker_seconds

    @property
    def admits(self) -> bool:
        return self.state != OPEN

    @property
    def healthy(self) -> bool:
        """Whether the last probe, if there was one, succeeded."""
        return self._failed_probes == 0

    def request_succeeded(self) -> None:
        self._failures = 0
        if self.state == HALF_OPEN:
            self.state = CLOSED
            self.reason = ""
            self._seconds = self._config.breaker_seconds

    def request_failed(self, reason: str, now: float) -> bool:
        """Whether the breaker opens by it."""
        self._failures += 1
        if self.state == HALF_OPEN or (self.state == CLOSED and self._failures >= self._config.breaker_failures):
            self._open(reason, now)
            return True
        return False

    def probe_succeeded(self, now: float) -> bool:
        """Whether the replica is let in again by it."""
        self._failed_probes = 0
        if self.state == OPEN and now >= self.open_until:
            self.state = HALF_OPEN
            return True
        return False

    def probe_failed(self, reason: str, now: float, first: bool = False) -> bool:
        """Whether the breaker opens by it. first: no probe has succeeded before, so one failure is enough."""
        self._failed_probes += 1
        if self.state != OPEN and (first or self._failed_probes >= self._config.health_failures):
            self._open(reason, now)
            return True
        return False

    def _open(self, reason: str, now: float) -> None:
        if self.state == HALF_OPEN:
            self._seconds = min(2 * self._seconds, self._config.breaker_most_seconds)
        self.state = OPEN
        self.reason = reason
        self.opened += 1
        self.open_until = now + self._seconds
        self._failures = 0
