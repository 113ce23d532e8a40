"""The decision log has a JSON line for each ended request, from which decisions can be replayed and learned from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rl.vllm.decide.ledger import Served
from vidur.errors import InputError
from vidur.observation import (
    ARRIVAL_COLUMNS,
    COMPLETION_COLUMNS,
    GAUGE_COLUMNS,
    HARDWARE_COLUMNS,
    HISTOGRAM_COUNTS,
    LEDGER_COLUMNS,
    QUEUE_COLUMNS,
    ClusterObservation,
    Floats,
    PlacedRequests,
)

VERSION = 1
FINISHED = "finished"
_FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class LoggedDecision:
    """A line of the log.

    observation: the scheduler's, without the histogram of output lengths and the list of outstanding requests.
    replicas: names. beta: nan unless ppo decided; fallback: the reason for which least_tokens decided, if it did.
    probabilities: float64[replicas], the propensities of all replicas. decided_at: seconds since 1970. status:
    FINISHED, or the failure.
    """

    observation: ClusterObservation
    replicas: tuple[str, ...]
    scheduler: str
    beta: float
    replica: int
    probabilities: Floats
    fallback: str | None
    shadow: int | None
    decided_at: float
    status: str
    served: Served


class DecisionLog:
    """Append to a file, which at `most_bytes` is rotated to FILE.1, that to FILE.2, and so on up to `files`.

    Lines reach the file every second and at `close`. Raises InputError if the file cannot be opened; `write` and
    `close` raise OSError, after which the log cannot be used any more.
    """

    def __init__(self, path: str | Path, most_bytes: int, files: int) -> None:
        self.path = Path(path)
        self._most_bytes = most_bytes
        self._files = files
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("ab")
        except OSError as error:
            raise InputError(f"--decision_log {self.path}: {error.strerror}") from None
        self._flushed_at = time.monotonic()

    def write(self, logged: LoggedDecision) -> None:
        line = format_line(logged)
        if self._file.tell() + len(line) > self._most_bytes and self._file.tell() > 0:
            self._rotate()
        self._file.write(line)
        now = time.monotonic()
        if now - self._flushed_at > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed_at = now

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._files - 1, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists():
                older.replace(f"{self.path}.{number + 1}")
        self.path.replace(f"{self.path}.1")
        self._file = self.path.open("ab")


def copied(observation: ClusterObservation) -> ClusterObservation:
    """Copy what the log records of an observation."""
    return ClusterObservation(
        now=observation.now,
        ledger=observation.ledger.copy(),
        gauges=observation.gauges.copy(),
        hardware=observation.hardware,
        available=observation.available,
        arrival=observation.arrival.copy(),
        completions=observation.completions[:HISTOGRAM_COUNTS].copy(),
        placed=_not_logged,
    )


def format_line(logged: LoggedDecision) -> bytes:
    """Format a line, with its newline. Numbers are exact."""
    seen, served = logged.observation, logged.served
    fields = {
        "version": VERSION,
        "decided_at": logged.decided_at,
        "now": seen.now,
        "replicas": logged.replicas,
        "scheduler": logged.scheduler,
        "beta": None if math.isnan(logged.beta) else logged.beta,
        "ledger": _numbers(seen.ledger),
        "gauges": _numbers(seen.gauges),
        "hardware": _numbers(seen.hardware),
        "available": [int(is_available) for is_available in seen.available],
        "arrival": _numbers(seen.arrival),
        "completions": _numbers(seen.completions[:HISTOGRAM_COUNTS]),
        "replica": logged.replica,
        "probabilities": _numbers(logged.probabilities),
        "fallback": logged.fallback,
        "shadow": logged.shadow,
        "status": logged.status,
        "prompt_tokens": served.prompt_tokens,
        "output_tokens": served.output_tokens,
        "ttft": served.ttft,
        "e2e": served.e2e,
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _numbers(array: Floats) -> list[Any]:
    """Return nested lists, with whole numbers as integers, which are shorter."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(part) for part in value]
        return int(value) if value.is_integer() else value

    numbers: list[Any] = short(array.tolist())
    return numbers


def read_log(paths: Sequence[str | Path]) -> Iterator[LoggedDecision]:
    """Yield the decisions of the files in order, without an incomplete last line.

    Raises InputError, which names file and line.
    """
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield _parse(line, f"{path}, line {number}")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None


def _parse(line: bytes, where: str) -> LoggedDecision:
    try:
        fields = json.loads(line)
        if fields["version"] != VERSION:
            raise InputError(f"{where}: the log has version {fields['version']}, not {VERSION}")
        observation = _observation(fields)
        ttft = None if fields["ttft"] is None else float(fields["ttft"])
        served = Served(fields["prompt_tokens"], fields["output_tokens"], ttft, float(fields["e2e"]))
        logged = LoggedDecision(
            observation=observation,
            replicas=tuple(fields["replicas"]),
            scheduler=fields["scheduler"],
            beta=math.nan if fields["beta"] is None else float(fields["beta"]),
            replica=fields["replica"],
            probabilities=np.array(fields["probabilities"], np.float64),
            fallback=fields["fallback"],
            shadow=fields["shadow"],
            decided_at=fields["decided_at"],
            status=fields["status"],
            served=served,
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{where}: not a line of a decision log: {type(error).__name__}: {error}") from None
    count = observation.num_replicas
    if len(logged.probabilities) != count or not 0 <= logged.replica < count:
        raise InputError(f"{where}: the decision does not fit {count} replicas")
    if not 0.0 <= (ttft or 0.0) <= served.e2e < math.inf:
        raise InputError(f"{where}: impossible TTFT of {ttft} and E2E of {served.e2e} seconds")
    return logged


def _observation(fields: dict[str, Any]) -> ClusterObservation:
    available: NDArray[np.bool_] = np.array(fields["available"], np.bool_)
    count = len(available)
    ledger = np.array(fields["ledger"], np.float64).reshape(count, -1)
    if ledger.shape[1] < LEDGER_COLUMNS or (ledger.shape[1] - LEDGER_COLUMNS) % QUEUE_COLUMNS:
        raise ValueError(f"a ledger of {ledger.shape[1]} columns")
    completions = np.zeros(COMPLETION_COLUMNS)
    completions[:HISTOGRAM_COUNTS] = fields["completions"]
    return ClusterObservation(
        now=float(fields["now"]),
        ledger=ledger,
        gauges=np.array(fields["gauges"], np.float64).reshape(count, GAUGE_COLUMNS),
        hardware=np.array(fields["hardware"], np.float64).reshape(count, HARDWARE_COLUMNS),
        available=available,
        arrival=np.array(fields["arrival"], np.float64).reshape(ARRIVAL_COLUMNS),
        completions=completions,
        placed=_not_logged,
    )


def _not_logged(replica: int) -> PlacedRequests:
    raise ValueError("the decision log does not list outstanding requests")
