"""Measure how long the router in front of real replicas takes to decide: ledger, encoder, policy, guard rails.

python scripts/benchmark_decision.py [--scheduler NAME] [--decisions N] [--rounds N]

A fixed loop of small NumPy operations alternates with the decisions: its p99 above its p50 is due to the machine, not
the router. Prints medians over the rounds, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from rl.vllm.decide.config import parse_router
from rl.vllm.decide.gauges import EngineGauges, Scrape
from rl.vllm.decide.routing import Arrival, Router

REPLICAS = (2, 4, 16, 64)
OUTSTANDING = 20
FIXED = 100  # operations of the loop


def microseconds(replicas: int, scheduler: str, decisions: int) -> tuple[list[float], list[float]]:
    """Time each decision of a router with some 20 requests per replica, and the fixed loop after it."""
    words = [word for number in range(replicas) for word in ("--replica", f"http://127.0.0.1:{8000 + number}")]
    config, _ = parse_router("benchmark", "", (), [*words, "--scheduler", scheduler])
    # A busy machine must not make decisions late.
    router, rng = Router(config, clock=lambda: 0.0), np.random.default_rng(0)
    available, under_way = np.ones(replicas, np.bool_), deque[int]()
    decided, fixed = [], []
    numbers, doubled = rng.random((16, 40)), np.empty((16, 40))
    for number in range(decisions + OUTSTANDING * replicas):
        now = 0.02 * number / replicas
        if number % 50 == 0:
            for replica in router.fleet.replicas:
                router.scraped(replica, Scrape({0: EngineGauges(OUTSTANDING, 0, 0.3, 0)}, 400_000), now)
        arrival = Arrival(int(rng.integers(10, 3000)), now)
        started = time.perf_counter()
        decision = router.decide(arrival, available, now)
        decided.append(1e6 * (time.perf_counter() - started))
        started = time.perf_counter()
        for _ in range(FIXED):
            np.multiply(numbers, 2.0, doubled)
        fixed.append(1e6 * (time.perf_counter() - started))
        assert decision.fallback is None, decision.explanation
        ticket = router.place(decision, arrival, now)
        under_way.append(ticket)
        for other in list(under_way)[: len(under_way) - replicas : 7]:
            router.stream(other, 1, now)
        if len(under_way) > OUTSTANDING * replicas:
            router.finish(under_way.popleft(), now, 200)
    return decided[-decisions:], fixed[-decisions:]


def spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", default="ppo")
    parser.add_argument("--decisions", type=int, default=5000, metavar="N")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    given = parser.parse_args()
    print("| replicas | p50, us | p99, us | fixed loop: p50, us | p99, us |")
    print("|---|---|---|---|---|")
    for replicas in REPLICAS:
        rounds = [microseconds(replicas, given.scheduler, given.decisions) for _ in range(given.rounds)]
        figures = [[np.percentile(times, (50, 99)) for times in both] for both in rounds]
        cells = [spread([both[which][index] for both in figures]) for which in (0, 1) for index in (0, 1)]
        print(f"| {replicas} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
