"""How long the router in front of real replicas takes to decide, in its process: books, encoder, policy, guard rails.

python scripts/benchmark_decision.py [--scheduler NAME] [--decisions N]
"""

from __future__ import annotations

import argparse
import time
from collections import deque

import numpy as np

from rl.vllm.config import parse_router
from rl.vllm.gauges import EngineGauges, Scrape
from rl.vllm.routing import Arrival, Router

REPLICAS = (2, 4, 16, 64)
OUTSTANDING = 20


def microseconds(replicas: int, scheduler: str, decisions: int) -> tuple[list[float], list[float]]:
    """Of each decision of a router with some 20 requests on each replica: on the wall clock, and of the processor."""
    words = [word for number in range(replicas) for word in ("--replica", f"http://127.0.0.1:{8000 + number}")]
    config, _ = parse_router("benchmark", "", (), [*words, "--scheduler", scheduler])
    # A busy machine is not to make decisions late.
    router, rng = Router(config, clock=lambda: 0.0), np.random.default_rng(0)
    available, under_way = np.ones(replicas, np.bool_), deque[int]()
    wall, busy = [], []
    for number in range(decisions + OUTSTANDING * replicas):
        now = 0.02 * number / replicas
        if number % 50 == 0:
            for replica in router.fleet.replicas:
                router.scraped(replica, Scrape({0: EngineGauges(OUTSTANDING, 0, 0.3, 0)}, 400_000), now)
        arrival = Arrival(int(rng.integers(10, 3000)), now)
        started, used = time.perf_counter(), time.thread_time()
        decision = router.decide(arrival, available, now)
        busy.append(1e6 * (time.thread_time() - used))
        wall.append(1e6 * (time.perf_counter() - started))
        assert decision.fallback is None, decision.explanation
        ticket = router.place(decision, arrival, now)
        under_way.append(ticket)
        for other in list(under_way)[: len(under_way) - replicas : 7]:
            router.stream(other, 1, now)
        if len(under_way) > OUTSTANDING * replicas:
            router.finish(under_way.popleft(), now, 200)
    return wall[-decisions:], busy[-decisions:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheduler", default="ppo")
    parser.add_argument("--decisions", type=int, default=5000, metavar="N")
    given = parser.parse_args()
    print("| replicas | p50, us | p99, us | of the processor: p50, us | p99, us |")
    print("|---|---|---|---|---|")
    for replicas in REPLICAS:
        figures = [np.percentile(times, (50, 99)) for times in microseconds(replicas, given.scheduler, given.decisions)]
        print(f"| {replicas} | " + " | ".join(f"{value:.0f}" for pair in figures for value in pair) + " |", flush=True)


if __name__ == "__main__":
    main()
