"""What replicas report of themselves: scraped from vLLM's /metrics, or pushed by the stat-logger plug-in."""

from __future__ import annotations

import json
import math
import re
from typing import NamedTuple

import numpy as np

from vidur.observation import (
    GAUGE_AGE,
    GAUGE_COLUMNS,
    GAUGE_KV_USAGE,
    GAUGE_PREEMPTIONS,
    GAUGE_RUNNING,
    GAUGE_WAITING,
    Floats,
)

# As vLLM 0.32 names them; older versions that lack one of these are refused.
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_KV_USAGE, _PREEMPTIONS = "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"
_CACHE = "vllm:cache_config_info"
_LABELS = r'\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}'
_NAMES = "|".join(re.escape(name) for name in (_RUNNING, _WAITING, _KV_USAGE, _PREEMPTIONS, _CACHE))
_SAMPLE = re.compile(rf"^({_NAMES})(?:{_LABELS})?[ \t]+(\S+)", re.MULTILINE)
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')

LARGEST_DATAGRAM = 2048


class MetricsError(ValueError):
    """A scrape or a datagram is not what a vLLM replica sends. The text says what is wrong with it."""


class EngineGauges(NamedTuple):
    """One engine of a replica: requests, requests, fraction 0..1, count since start."""

    running: float
    waiting: float
    kv_usage: float
    preemptions: float


class Scrape(NamedTuple):
    """A replica's engines by number, and the tokens that its KV-cache holds in all, if it says so."""

    engines: dict[int, EngineGauges]
    kv_tokens: int | None


class Push(NamedTuple):
    """A datagram of the stat-logger plug-in: one engine's state after a step. run: the engine's start, by some number
    that no other has; number: of the step since then."""

    replica: str
    engine: int
    gauges: EngineGauges
    run: int
    number: int


def parse_metrics(text: str) -> Scrape:
    """The gauges of a vLLM 0.32 replica from the text of its /metrics. Raises MetricsError."""
    found: dict[str, dict[int, float]] = {name: {} for name in (_RUNNING, _WAITING, _KV_USAGE, _PREEMPTIONS)}
    kv_tokens = 0
    for name, label_text, value_text in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(label_text))
        if name == _CACHE:
            kv_tokens += _capacity(labels)
            continue
        engine = _whole(labels.get("engine", "0"), f"{name}: engine")
        # One engine has a sample for each name that its model goes by; they are one state.
        found[name].setdefault(engine, _number(value_text, name))
    missing = [name for name, values in found.items() if not values]
    if missing:
        raise MetricsError(f"no {', '.join(missing)}: not the metrics of vLLM 0.32")
    engines = found[_RUNNING].keys()
    for name, values in found.items():
        if values.keys() != engines:
            raise MetricsError(f"{name} is there for other engines than {_RUNNING}")
    gauges = {engine: _checked(*(values[engine] for values in found.values())) for engine in sorted(engines)}
    return Scrape(gauges, kv_tokens or None)


def parse_push(datagram: bytes) -> Push:
    """A datagram, one JSON object: replica (name), engine, running, waiting, kv_usage, preemptions, run, number.

    Raises MetricsError."""
    try:
        values = json.loads(datagram)
        replica = values["replica"]
        counts = [values[name] for name in ("engine", "run", "number")]
        gauges = [float(values[name]) for name in EngineGauges._fields]
    except KeyError as error:
        raise MetricsError(f"the datagram lacks {error}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MetricsError(f"not a datagram of the stat logger: {error}") from None
    if not isinstance(replica, str) or not all(type(count) is int and count >= 0 for count in counts):
        raise MetricsError("the datagram's replica is no text, or its engine, run or number no count")
    engine, run, number = counts
    return Push(replica, engine, _checked(*gauges), run, number)


def format_push(push: Push) -> bytes:
    """The datagram that `parse_push` reads."""
    fields = {"replica": push.replica, "engine": push.engine, **push.gauges._asdict()}
    return json.dumps({**fields, "run": push.run, "number": push.number}, separators=(",", ":")).encode()


def _checked(running: float, waiting: float, kv_usage: float, preemptions: float) -> EngineGauges:
    gauges = EngineGauges(running, waiting, kv_usage, preemptions)
    for name, value in gauges._asdict().items():
        if not (math.isfinite(value) and value >= 0.0):
            raise MetricsError(f"{name} is {value}")
    if kv_usage > 1.0:
        raise MetricsError(f"kv_usage is {kv_usage}, more than the whole")
    return gauges


def _capacity(labels: dict[str, str]) -> int:
    """Tokens that an engine's KV-cache holds; 0 if it does not say."""
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdecimal() and size.isdecimal() else 0


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MetricsError(f"{name}: {text!r} is no number") from None


def _whole(text: str, name: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise MetricsError(f"{name}: {text!r} is no number of an engine")
    return int(text)


class _Reports:
    """The newest report of each engine of a replica, when it came, and the run and number of its newest push."""

    __slots__ = ("at", "engines", "pushed")

    def __init__(self, at: float) -> None:
        self.at = at
        self.engines: dict[int, tuple[float, EngineGauges]] = {}
        self.pushed: dict[int, tuple[int, int]] = {}


class Gauges:
    """float64[replicas, GAUGE_COLUMNS] of a fleet: for each engine the newest report, whether it was scraped or pushed;
    summed over a replica's engines, the KV-cache usage averaged; as old as the oldest of them.

    Times are seconds on the caller's clock, on which `started_at` is when nothing was known.
    """

    def __init__(self, num_replicas: int, started_at: float = 0.0) -> None:
        self._reports = [_Reports(started_at) for _ in range(num_replicas)]
        self._allocate()

    def update(self, replica: int, scrape: Scrape, at: float) -> None:
        """A scrape that was asked for at `at`. An engine that it does not name is gone."""
        reports = self._reports[replica]
        engines = {}
        for engine, gauges in scrape.engines.items():
            before = reports.engines.get(engine)
            engines[engine] = before if before is not None and before[0] > at else (at, gauges)
        reports.engines = engines
        self._show(replica)

    def push(self, replica: int, push: Push, at: float) -> bool:
        """A datagram that came at `at`. False: a newer one of that engine was here before, so it changes nothing."""
        reports = self._reports[replica]
        run, number = reports.pushed.get(push.engine, (push.run, 0))
        if run == push.run and push.number < number:
            return False
        reports.pushed[push.engine] = (push.run, push.number)
        reports.engines[push.engine] = (at, push.gauges)
        self._show(replica)
        return True

    def observe(self, now: float) -> Floats:
        """float64[replicas, GAUGE_COLUMNS]: a view, good until the next event. GAUGE_AGE is seconds."""
        np.subtract(now, self._at, out=self._ages)
        return self._values

    def known(self, replica: int) -> bool:
        """Whether the replica has ever reported."""
        return bool(self._reports[replica].engines)

    def waiting(self, replica: int) -> int:
        """Requests in the queues of its engines."""
        return int(self._values[replica, GAUGE_WAITING])

    def age(self, replica: int, now: float) -> float:
        """Seconds since the replica reported, or since the start if it never did."""
        return now - self._reports[replica].at

    def add_replica(self, at: float) -> int:
        """Append a replica of which nothing is known and return its number."""
        self._reports.append(_Reports(at))
        self._allocate()
        return len(self._reports) - 1

    def remove_replica(self, replica: int) -> None:
        """Forget a replica; those after it move up."""
        del self._reports[replica]
        self._allocate()

    def _allocate(self) -> None:
        self._values = np.zeros((len(self._reports), GAUGE_COLUMNS))
        self._ages = self._values[:, GAUGE_AGE]
        self._at = np.zeros(len(self._reports))
        for replica in range(len(self._reports)):
            self._show(replica)

    def _show(self, replica: int) -> None:
        reports = self._reports[replica]
        row, engines = self._values[replica], list(reports.engines.values())
        if engines:
            reports.at = min(at for at, _ in engines)
            row[GAUGE_RUNNING] = sum(gauges.running for _, gauges in engines)
            row[GAUGE_WAITING] = sum(gauges.waiting for _, gauges in engines)
            row[GAUGE_KV_USAGE] = sum(gauges.kv_usage for _, gauges in engines) / len(engines)
            row[GAUGE_PREEMPTIONS] = sum(gauges.preemptions for _, gauges in engines)
        self._at[replica] = reports.at
