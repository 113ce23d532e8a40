"""The gauges of replicas, scraped from vLLM's /metrics or pushed by the stat-logger plug-in."""

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

# The names of vLLM 0.32; versions without one of them are refused.
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_KV_USAGE, _PREEMPTIONS = "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"
_CACHE = "vllm:cache_config_info"
_LABELS = r'\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}'
_NAMES = "|".join(re.escape(name) for name in (_RUNNING, _WAITING, _KV_USAGE, _PREEMPTIONS, _CACHE))
_SAMPLE = re.compile(rf"^({_NAMES})(?:{_LABELS})?[ \t]+(\S+)", re.MULTILINE)
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')

LARGEST_DATAGRAM = 2048


class MetricsError(ValueError):
    """A scrape or a datagram that is not what a vLLM replica sends."""


class EngineGauges(NamedTuple):
    """The gauges of one engine: requests, requests, fraction from 0 to 1, count since its start."""

    running: float
    waiting: float
    kv_usage: float
    preemptions: float


class Scrape(NamedTuple):
    """A replica's engines by number, and the capacity of its KV-cache in tokens, if reported."""

    engines: dict[int, EngineGauges]
    kv_tokens: int | None


class Push(NamedTuple):
    """A datagram of the stat-logger plug-in after an engine's step. run: a unique number of the engine's start; number:
    the step since then."""

    replica: str
    engine: int
    gauges: EngineGauges
    run: int
    number: int


def parse_metrics(text: str) -> Scrape:
    """Read the gauges of a vLLM 0.32 replica from the text of its /metrics. Raises MetricsError."""
    samples: dict[str, dict[int, float]] = {name: {} for name in (_RUNNING, _WAITING, _KV_USAGE, _PREEMPTIONS)}
    kv_tokens = 0
    for name, label_text, value_text in _SAMPLE.findall(text):
        labels = dict(_LABEL.findall(label_text))
        if name == _CACHE:
            kv_tokens += _capacity(labels)
            continue
        engine = _whole(labels.get("engine", "0"), f"{name}: engine")
        # An engine has equal samples for each name of its model.
        samples[name].setdefault(engine, _number(value_text, name))
    missing = [name for name, values in samples.items() if not values]
    if missing:
        raise MetricsError(f"no {', '.join(missing)}: not the metrics of vLLM 0.32")
    engines = samples[_RUNNING].keys()
    for name, values in samples.items():
        if values.keys() != engines:
            raise MetricsError(f"{name} has other engines than {_RUNNING}")
    gauges = {engine: _checked(*(values[engine] for values in samples.values())) for engine in sorted(engines)}
    return Scrape(gauges, kv_tokens or None)


def parse_push(datagram: bytes) -> Push:
    """Read a datagram, a JSON object with replica (name), engine, running, waiting, kv_usage, preemptions, run, number.

    Raises MetricsError.
    """
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
        raise MetricsError("the datagram's replica is not a text, or its engine, run or number not a count")
    engine, run, number = counts
    return Push(replica, engine, _checked(*gauges), run, number)


def format_push(push: Push) -> bytes:
    """Format the datagram that `parse_push` reads."""
    fields = {"replica": push.replica, "engine": push.engine, **push.gauges._asdict()}
    return json.dumps({**fields, "run": push.run, "number": push.number}, separators=(",", ":")).encode()


def _checked(running: float, waiting: float, kv_usage: float, preemptions: float) -> EngineGauges:
    gauges = EngineGauges(running, waiting, kv_usage, preemptions)
    for name, value in gauges._asdict().items():
        if not (math.isfinite(value) and value >= 0.0):
            raise MetricsError(f"{name} is {value}")
    if kv_usage > 1.0:
        raise MetricsError(f"kv_usage is {kv_usage}, more than 1")
    return gauges


def _capacity(labels: dict[str, str]) -> int:
    """Return the capacity of an engine's KV-cache in tokens; 0 if it is not reported."""
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdecimal() and size.isdecimal() else 0


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MetricsError(f"{name}: {text!r} is not a number") from None


def _whole(text: str, name: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise MetricsError(f"{name}: {text!r} is not the number of an engine")
    return int(text)


class _Reports:
    """The newest report of each engine with its time, and the run and number of its newest push."""

    __slots__ = ("engines", "oldest", "pushed")

    def __init__(self, started_at: float) -> None:
        self.oldest = started_at
        self.engines: dict[int, tuple[float, EngineGauges]] = {}
        self.pushed: dict[int, tuple[int, int]] = {}


class Gauges:
    """The gauges of a fleet, from the newest scrape or push of each engine.

    A replica's gauges are the sums over its engines (the mean for KV-cache usage), as old as the oldest of them. Times
    are seconds on the caller's clock; a replica without a report counts as reported at `started_at`.
    """

    def __init__(self, num_replicas: int, started_at: float = 0.0) -> None:
        self._reports = [_Reports(started_at) for _ in range(num_replicas)]
        self._allocate()

    def update(self, replica: int, scrape: Scrape, now: float) -> None:
        """Take a scrape that was requested at `now`. Engines that it does not name are forgotten."""
        reports = self._reports[replica]
        engines = {}
        for engine, gauges in scrape.engines.items():
            before = reports.engines.get(engine)
            engines[engine] = before if before is not None and before[0] > now else (now, gauges)
        reports.engines = engines
        self._show(replica)

    def push(self, replica: int, push: Push, now: float) -> bool:
        """Take a datagram that arrived at `now`. Returns False, with nothing changed, if a newer one came before it."""
        reports = self._reports[replica]
        run, number = reports.pushed.get(push.engine, (push.run, 0))
        if run == push.run and push.number < number:
            return False
        reports.pushed[push.engine] = (push.run, push.number)
        reports.engines[push.engine] = (now, push.gauges)
        self._show(replica)
        return True

    def observe(self, now: float) -> Floats:
        """Return float64[replicas, GAUGE_COLUMNS], a view valid until the next event. GAUGE_AGE is in seconds."""
        np.subtract(now, self._times, out=self._ages)
        return self._values

    def known(self, replica: int) -> bool:
        """Return whether the replica has ever reported."""
        return bool(self._reports[replica].engines)

    def waiting(self, replica: int) -> int:
        """Return the number of requests in the queues of its engines."""
        return int(self._values[replica, GAUGE_WAITING])

    def age(self, replica: int, now: float) -> float:
        """Return the seconds since the replica reported, or since the start if it never did."""
        return now - self._reports[replica].oldest

    def add_replica(self, now: float) -> int:
        """Append a replica without a report and return its number."""
        self._reports.append(_Reports(now))
        self._allocate()
        return len(self._reports) - 1

    def remove_replica(self, replica: int) -> None:
        """Remove a replica; those after it move up."""
        del self._reports[replica]
        self._allocate()

    def _allocate(self) -> None:
        self._values = np.zeros((len(self._reports), GAUGE_COLUMNS))
        self._ages = self._values[:, GAUGE_AGE]
        self._times = np.zeros(len(self._reports))
        for replica in range(len(self._reports)):
            self._show(replica)

    def _show(self, replica: int) -> None:
        reports = self._reports[replica]
        row, engines = self._values[replica], list(reports.engines.values())
        if engines:
            reports.oldest = min(time for time, _ in engines)
            row[GAUGE_RUNNING] = sum(gauges.running for _, gauges in engines)
            row[GAUGE_WAITING] = sum(gauges.waiting for _, gauges in engines)
            row[GAUGE_KV_USAGE] = sum(gauges.kv_usage for _, gauges in engines) / len(engines)
            row[GAUGE_PREEMPTIONS] = sum(gauges.preemptions for _, gauges in engines)
        self._times[replica] = reports.oldest
