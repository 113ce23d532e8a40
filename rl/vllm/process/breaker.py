"""A circuit breaker keeps requests from a replica that fails repeatedly, until a probe succeeds."""

from __future__ import annotations

from rl.vllm.process.config import BreakerConfig

CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"
STATES = (CLOSED, HALF_OPEN, OPEN)


class Breaker:
    """The circuit breaker of one replica. Times are of any monotonic clock.

    closed: the replica gets requests. open: it gets none until `open_until` has passed and a probe succeeds. half_open:
    it gets requests; the first failure opens the breaker, the first success closes it.
    """

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
        """Count a failed request, and return whether it opens the breaker."""
        self._failures += 1
        if self.state == HALF_OPEN or (self.state == CLOSED and self._failures >= self._config.breaker_failures):
            self._open(reason, now)
            return True
        return False

    def probe_succeeded(self, now: float) -> bool:
        """Note a probe's success, and return whether the replica gets requests again."""
        self._failed_probes = 0
        if self.state == OPEN and now >= self.open_until:
            self.state = HALF_OPEN
            return True
        return False

    def probe_failed(self, reason: str, now: float, first: bool = False) -> bool:
        """Count a failed probe; return whether it opens the breaker. first: none has succeeded, so one is enough."""
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
