"""Sample the state of a running router for its metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rl.vllm.decide.fleet import SERVING
from rl.vllm.process.breaker import STATES
from rl.vllm.process.metrics import MetricState, Samples
from rl.vllm.process.proxy import RECENT

if TYPE_CHECKING:
    from rl.vllm.process.process import RouterProcess


def router_samples(process: RouterProcess) -> Iterator[MetricState]:
    """Yield the families of samples that are computed when metrics are read."""
    yield from _of_replicas(process)
    yield from _of_decisions(process)
    for name, text, kind, value in (
        ("queued", "Requests that wait in the router", "gauge", process.admission.queued),
        ("admitted", "Requests in flight", "gauge", process.admission.in_flight),
        ("connections", "Connected clients", "gauge", len(process.server.connections)),
        ("buffered_bytes", "Bytes of buffered request bodies", "gauge", process.server.buffered_bytes),
        ("log_lines_dropped", "Lines of the access log that could not be written", "counter", process.log.dropped),
        ("pushes_malformed", "Pushed datagrams that could not be read", "counter", process.pushes.malformed),
    ):
        yield MetricState(name, text, kind, (), {(): value})


def _of_replicas(process: RouterProcess) -> Iterator[MetricState]:
    gauges, now = process.router.gauges, time.monotonic()
    ages = [gauges.age(number, now) for number in range(len(process.backends))]
    levels = f"0: {STATES[0]}, 1: {STATES[1]}, 2: {STATES[2]}"
    for name, text, kind, values in (
        ("decisions", "Decisions for a replica", "counter", [b.tally.decisions for b in process.backends]),
        ("output_tokens", "Tokens of finished requests", "counter", [b.tally.output_tokens for b in process.backends]),
        ("breaker_state", levels, "gauge", [STATES.index(b.breaker.state) for b in process.backends]),
        ("breaker_opened", "Times a replica was ejected", "counter", [b.breaker.opened for b in process.backends]),
        ("serving", "0: draining", "gauge", [b.replica.state == SERVING for b in process.backends]),
        ("in_flight", "Requests on a replica", "gauge", [b.in_flight for b in process.backends]),
        ("gauge_age_seconds", "Time since the replica's gauges were read", "gauge", ages),
        ("scrapes_failed", "Scrapes without gauges", "counter", [b.scrapes_failed for b in process.backends]),
    ):  # fmt: skip
        names = [(name,) for name in process.backends.names]
        yield MetricState(name, text, kind, ("replica",), dict(zip(names, map(float, values), strict=True)))


def _of_decisions(process: RouterProcess) -> Iterator[MetricState]:
    router = process.router
    fallbacks: Samples = {(reason,): count for reason, count in router.guard.counts.items()}
    yield MetricState("fallbacks", "Decisions by the fallback scheduler", "counter", ("reason",), fallbacks)
    shadowed = router.shadowed
    agreement: Samples = {("yes",): shadowed.agreements, ("no",): shadowed.decisions - shadowed.agreements}
    yield MetricState("shadow_decisions", "Whether the shadow agreed", "counter", ("agrees",), agreement)
    entropies = [entropy for item in process.proxy.recent if (entropy := item.decision.entropy) is not None]
    if entropies:
        mean = sum(entropies) / len(entropies)
        yield MetricState("policy_entropy_nats", f"Mean over the last {RECENT} decisions", "gauge", (), {(): mean})
