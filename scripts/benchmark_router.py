"""Measure the learned router's decisions: compiled into the simulation, against lor, and alone in NumPy.

python scripts/benchmark_router.py [--requests N]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numba
import numpy as np

import rl.router.compiled  # noqa: F401
from rl.router.choose import choose_ppo
from vidur import SimulationConfig, Simulator
from vidur.scheduler.routers import KernelScheduler

REPLICAS = (4, 16, 64)
REPEATS = 5

_choose = numba.njit(error_model="numpy")(choose_ppo)


@numba.njit(error_model="numpy")
def _many(count: int, *arguments: Any) -> None:
    for _ in range(count):
        _choose(*arguments)


def configuration(replicas: int, requests: int, router: str) -> SimulationConfig:
    document: dict[str, Any] = {
        "cluster_config": {
            "num_replicas": replicas,
            "replica_config": {"model_name": "meta-llama/Meta-Llama-3-8B", "device": "a100"},
            "global_scheduler_config": router,
        },
        "request_generator_config": {
            "type": "synthetic",
            "num_requests": requests,
            "length_generator_config": {"type": "quantile", "distribution": "azure_conv_2023", "max_tokens": 16384},
            "interval_generator_config": {"type": "poisson", "qps": 6.0 * replicas},
        },
        "metrics_config": {"write_metrics": False},
    }
    return SimulationConfig.from_dict(document)


def microseconds_a_request(replicas: int, requests: int, router: str) -> float:
    """Time a whole simulation per request, the least of several runs."""
    seconds = []
    for _ in range(REPEATS):
        result = Simulator(configuration(replicas, requests, router)).run()
        assert result.wall_seconds is not None
        seconds.append(result.wall_seconds)
    return 1e6 * min(seconds) / requests


def microseconds_a_decision(replicas: int, requests: int) -> tuple[float, float]:
    """Return (p50, p99) of PPOScheduler.schedule: encoder and network in NumPy."""
    simulator = Simulator(configuration(replicas, requests, "ppo"))
    taken = []
    while (observation := simulator.next_decision()) is not None:
        started = time.perf_counter()
        replica = simulator.router.schedule(observation)
        taken.append(time.perf_counter() - started)
        simulator.place(replica)
    p50, p99 = np.percentile(taken, (50, 99))
    return 1e6 * float(p50), 1e6 * float(p99)


def compiled_microseconds(replicas: int) -> float:
    """Time one decision of the kernel, called a thousand times from compiled code."""
    simulator = Simulator(configuration(replicas, 500, "ppo"))
    observation = None
    for _ in range(400):
        observation = simulator.next_decision()
        assert observation is not None
        simulator.place(int(simulator.router.schedule(observation)))
    assert observation is not None and isinstance(simulator.router, KernelScheduler)
    arguments = (
        observation.now, observation.ledger, observation.gauges, observation.hardware, observation.arrival,
        observation.available.astype(np.int64), observation.completions, simulator.router.memory, np.zeros(2),
    )  # fmt: skip
    _many(1, *arguments)
    started = time.perf_counter()
    _many(1000, *arguments)
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, metavar="N")
    requests = parser.parse_args().requests
    print(
        "| replicas | lor, us/request | ppo, us/request | ratio | decisions/s | kernel, us | NumPy p50, us | p99, us |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for replicas in REPLICAS:
        lor, ppo = (microseconds_a_request(replicas, requests, router) for router in ("lor", "ppo"))
        p50, p99 = microseconds_a_decision(replicas, min(requests, 3000))
        print(
            f"| {replicas} | {lor:.1f} | {ppo:.1f} | {ppo / lor:.1f} | {1e6 / ppo:,.0f} "
            f"| {compiled_microseconds(replicas):.1f} | {p50:.0f} | {p99:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
