"""Collect the dashboard's data: the state and recent history of replicas, and the latest decisions."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rl.vllm.decide.routing import softmax
from vidur.observation import (
    AWAITING,
    AWAITING_TOKENS,
    GAUGE_AGE,
    GAUGE_KV_USAGE,
    GAUGE_RUNNING,
    GAUGE_WAITING,
    OUTSTANDING,
    PROMPT_TOKENS,
    SPEED,
    STREAMED_TOKENS,
    Floats,
)
from vidur.report.page import with_shared

if TYPE_CHECKING:
    from rl.vllm.process.backends import Backend
    from rl.vllm.process.process import RouterProcess
    from rl.vllm.process.proxy import Recent

PAGE = with_shared(Path(__file__).with_name("dashboard.html").read_text(encoding="utf-8")).encode()
SAMPLES = 240  # two minutes, at two samples a second


class Sample(NamedTuple):
    """The replicas at a time. at: seconds since 1970; replicas: (outstanding, decisions so far, output tokens so far,
    TTFT, TPOT) by name."""

    at: float
    replicas: dict[str, tuple[int, int, int, float, float]]


class Dashboard:
    """Collect the state of a running router."""

    def __init__(self, process: RouterProcess) -> None:
        self._process = process
        self._started = time.time()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def sample(self) -> None:
        """Record a sample."""
        process = self._process
        ledger = process.router.ledger.observe(process.now())
        replicas = {}
        for number, backend in enumerate(process.backends):
            tally = backend.tally
            replicas[backend.name] = (
                int(ledger[number, OUTSTANDING]), tally.decisions, tally.output_tokens,
                round(tally.ttft, 5), round(tally.tpot, 6),
            )  # fmt: skip
        self._samples.append(Sample(round(time.time(), 3), replicas))

    def replica_states(self) -> list[dict[str, Any]]:
        """Return the current state of the replicas in seconds, counts and fractions."""
        router = self._process.router
        now = self._process.now()
        arrays = router.ledger.observe(now), router.gauges.observe(now), router.fleet.hardware()
        return [
            self._replica_state(number, backend, *(array[number] for array in arrays))
            for number, backend in enumerate(self._process.backends)
        ]

    def _replica_state(
        self, number: int, backend: Backend, books: Floats, gauges: Floats, hardware: Floats
    ) -> dict[str, Any]:
        known = self._process.router.gauges.known(number)
        tally = backend.tally
        return {
            "name": backend.name,
            "url": backend.replica.url,
            "group": backend.replica.config.group,
            "speed": float(hardware[SPEED]),
            "state": backend.state,
            "reason": backend.breaker.reason,
            "ejected": backend.breaker.opened,
            "in_flight": backend.in_flight,
            "outstanding": int(books[OUTSTANDING]),
            "awaiting_first_token": int(books[AWAITING]),
            "prompt_tokens": int(books[PROMPT_TOKENS]),
            "awaiting_tokens": int(books[AWAITING_TOKENS]),
            "streamed_tokens": int(books[STREAMED_TOKENS]),
            "running": int(gauges[GAUGE_RUNNING]) if known else None,
            "waiting": int(gauges[GAUGE_WAITING]) if known else None,
            "kv_usage": float(gauges[GAUGE_KV_USAGE]) if known else None,
            "gauge_age": float(gauges[GAUGE_AGE]),
            "gauge_error": backend.scrape_error or None,
            "ttft": tally.ttft or None,
            "tpot": tally.tpot or None,
            "decisions": tally.decisions,
            "finished": tally.finished,
            "failed": tally.failed,
            "output_tokens": tally.output_tokens,
        }

    def state(self, whole: bool) -> dict[str, Any]:
        """Return the page's data. whole: with all recorded samples and decisions, instead of the newest."""
        process = self._process
        router = process.router
        shadow = router.config.shadow
        recent = list(process.proxy.recent)
        samples = list(self._samples)
        return {
            "at": time.time(),
            "started": self._started,
            "whole": whole,
            "scheduler": router.scheduler_name,
            "shadow": None if shadow is None else shadow.get_type(),
            "shadow_decisions": router.shadowed.decisions,
            "shadow_agreements": router.shadowed.agreements,
            "draining": process.draining,
            "queued": process.admission.queued,
            "in_flight": process.admission.in_flight,
            "connections": len(process.server.connections),
            "decisions_made": router.decisions,
            "retries": process.proxy.retries,
            "fallbacks": {reason: count for reason, count in router.guard.counts.items() if count},
            "decision_seconds": _percentiles([item.decision.seconds for item in recent]),
            "replicas": self.replica_states(),
            "samples": [sample._asdict() for sample in (samples if whole else samples[-3:])],
            "decisions": [_decision(item) for item in (recent if whole else recent[-24:])],
        }


def _percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50": float(p50), "p99": float(p99)}


def _decision(recent: Recent) -> dict[str, Any]:
    decision = recent.decision
    probabilities = None
    if decision.scores is not None:
        probabilities = dict(zip(recent.names, softmax(decision.scores).round(4).tolist(), strict=True))
    return {
        "number": decision.ordinal,
        "at": round(recent.at, 3),
        "replica": recent.replica,
        "prompt_tokens": recent.arrival.prompt_tokens,
        "scheduler": decision.scheduler,
        "fallback": decision.fallback,
        "explanation": decision.explanation,
        "explored": decision.explored,
        "seconds": decision.seconds,
        "probabilities": probabilities,
        "shadow": recent.names[decision.shadow] if decision.shadow is not None else None,
        "shadow_agrees": decision.shadow_agrees,
    }
