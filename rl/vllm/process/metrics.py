"""The router's own metrics: plain counters, formatted for Prometheus when they are read."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
PREFIX = "vidur_router_"
DECISION_SECONDS = (2e-5, 5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1)
TPOT_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
TTFT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
E2E_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Counts by upper bound, and the sum of values. That of prometheus_client locks each bucket for each value."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return the counts up to each bound, and the sum."""
        bounds = [*(repr(bound) for bound in self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True)), self.total


OF_REPLICAS = {
    "decision_seconds": "Time to decide, by chosen replica",
    "ttft_seconds": "Time from arrival to the first token, of streams",
    "tpot_seconds": "Time per output token after the first, of streams",
    "e2e_seconds": "Time from arrival to the end of the answer",
}


class ReplicaMetrics:
    """The histograms of one replica."""

    def __init__(self) -> None:
        self.decision = Histogram(DECISION_SECONDS)
        self.ttft = Histogram(TTFT_SECONDS)
        self.tpot = Histogram(TPOT_SECONDS)
        self.e2e = Histogram(E2E_SECONDS)

    @property
    def histograms(self) -> dict[str, Histogram]:
        return dict(zip(OF_REPLICAS, (self.decision, self.ttft, self.tpot, self.e2e), strict=True))


Samples: TypeAlias = Mapping[tuple[str, ...], float]


class MetricState(NamedTuple):
    """A family of samples. kind: gauge or counter; labels: names; samples: numbers by label values."""

    name: str
    help: str
    kind: str
    labels: tuple[str, ...]
    samples: Samples


class RouterMetrics(Collector):
    """Counters and histograms of events, by labels. states: yields further families at the time of reading."""

    def __init__(self, states: Callable[[], Iterator[MetricState]]) -> None:
        self._states = states
        self.replicas: dict[str, ReplicaMetrics] = {}
        self.requests: Counter[tuple[str, ...]] = Counter()  # replica, status
        self.refused: Counter[tuple[str, ...]] = Counter()  # status
        self.errors: Counter[tuple[str, ...]] = Counter()  # replica, reason
        self.retries: Counter[tuple[str, ...]] = Counter()  # reason
        self.broken: Counter[tuple[str, ...]] = Counter()  # replica
        self.overload = self.clients_left = self.clients_cut = 0
        self.queue_seconds = Histogram(TTFT_SECONDS)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        yield _counter("requests", "Requests answered", ("replica", "code"), self.requests)
        yield _counter("refused", "Requests refused before routing, by status", ("code",), self.refused)
        yield _counter("errors", "Failed exchanges with a replica", ("replica", "reason"), self.errors)
        yield _counter("retries", "Requests retried on another replica", ("reason",), self.retries)
        yield _counter("broken_answers", "Answers that broke off after they began", ("replica",), self.broken)
        yield _counter("overload", "Requests refused with 429", (), {(): self.overload})
        yield _counter("clients_left", "Clients that left before the end of their answer", (), {(): self.clients_left})
        yield _counter("clients_cut", "Clients that the router cut off", (), {(): self.clients_cut})
        for name, text in OF_REPLICAS.items():
            family = HistogramMetricFamily(f"{PREFIX}{name}", text, labels=("replica",))
            for replica, metrics in self.replicas.items():
                family.add_metric((replica,), *metrics.histograms[name].read())
            yield family
        queue = HistogramMetricFamily(f"{PREFIX}queue_seconds", "Time in the router's queue")
        queue.add_metric((), *self.queue_seconds.read())
        yield queue
        for state in self._states():
            if state.kind == "counter":
                yield _counter(state.name, state.help, state.labels, state.samples)
                continue
            gauge = GaugeMetricFamily(f"{PREFIX}{state.name}", state.help, labels=state.labels)
            for labels, value in state.samples.items():
                gauge.add_metric(labels, value)
            yield gauge

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _counter(
    name: str, text: str, labels: Sequence[str], samples: Mapping[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=labels)
    for values, count in samples.items():
        family.add_metric(values, count)
    return family
