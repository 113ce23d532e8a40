"""Measure the engine on reference cases, against upstream's CPU seconds, and by cluster size.

python scripts/benchmark.py --golden DIR [--json]: DIR holds a folder per case (case.json, requests.csv, tables.npz).
python scripts/benchmark.py --cache TRACE: a trace with hash_ids (Mooncake's) on 8 replicas that cache prefixes, under
time_cost, in CPU seconds; then sessions, a million requests over 64 replicas.
python scripts/benchmark.py --million: a million requests over 64 replicas, with the memory it takes.
Times are of the event loop alone, batches recorded, after compilation, the best of several runs on one core; upstream's
are the CPU seconds of its own event loop, from case.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from golden import GoldenCase

from vidur.config import SimulationConfig
from vidur.simulator import Simulator

REPEATS = 5
REPLICA_COUNTS = (1, 4, 16, 64, 256)
REQUESTS_PER_SECOND = 2.5
"""Per replica: about 80 % of what it can serve of these requests."""


def time_run(config: SimulationConfig, repeats: int = REPEATS) -> tuple[float, int, int]:
    """Return the seconds, batches and requests of the fastest of `repeats` runs."""
    best = float("inf")
    for _ in range(repeats):
        simulator = Simulator(config)
        result = simulator.run()
        assert result.wall_seconds is not None
        best = min(best, result.wall_seconds)
    rows = result.recording.batches
    first = rows["stage"] == 0
    return best, int(rows["count"][first].sum()), len(simulator.requests)


def time_case(case: GoldenCase) -> dict[str, Any]:
    seconds, batches, requests = time_run(case.config())
    upstream = case.facts["run_cpu_seconds"]
    return {
        "name": case.folder.name,
        "batches_per_second": batches / seconds,
        "requests_per_second": requests / seconds,
        "seconds": seconds,
        "upstream_seconds": upstream,
        "speedup": upstream / seconds,
    }


def size_config(replicas: int, requests: int, router: str) -> SimulationConfig:
    flags = f"""
        --cluster_config_num_replicas {replicas} --global_scheduler_config_type {router}
        --length_generator_config_type quantile --synthetic_request_generator_config_num_requests {requests}
        --poisson_request_interval_generator_config_qps {REQUESTS_PER_SECOND * replicas}
        --no-metrics_config_enable_chrome_trace
    """
    return SimulationConfig.from_cli(flags.split())


def time_size(replicas: int, router: str) -> dict[str, Any]:
    seconds, batches, requests = time_run(size_config(replicas, max(4000, 400 * replicas), router), repeats=3)
    return {
        "name": f"{replicas} replicas, {router}",
        "replicas": replicas,
        "batches_per_second": batches / seconds,
        "requests_per_second": requests / seconds,
        "nanoseconds_per_batch": seconds / batches * 1e9,
    }


def run_million() -> dict[str, Any]:
    seconds, batches, requests = time_run(size_config(64, 1_000_000, "least_tokens"), repeats=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {"requests": requests, "batches": batches, "seconds": seconds, "peak_gib": peak}


def cache_config(flags: str) -> SimulationConfig:
    shared = """
        --replica_scheduler_config_type vllm_v1 --global_scheduler_config_type time_cost
        --no-metrics_config_write_metrics --replica_config_model_name meta-llama/Meta-Llama-3-8B
        --replica_config_device h100
    """
    return SimulationConfig.from_cli((shared + flags).split())


def time_cache(name: str, config: SimulationConfig, repeats: int) -> None:
    """Print CPU seconds of the event loop, hit rate and peak memory of a run whose prefixes are cached."""
    best = float("inf")
    for _ in range(repeats):
        simulator = Simulator(config)
        router: Any = simulator.routers[0]
        simulator.simulation.compile(type(router).choose)
        started = time.process_time()
        result = simulator.run()
        best = min(best, time.process_time() - started)
    replicas = result.recording.replicas
    rate = replicas["hit_tokens"].sum() / replicas["query_tokens"].sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{name:40} {best:7.2f} s, {len(simulator.requests):,} requests, hit rate {rate:.4f}, peak {peak:.1f} GiB")


def run_cache(trace: Path) -> None:
    for block_size in (512, 16):
        flags = f"""
            --cluster_config_num_replicas 8 --request_generator_config_type trace_replay
            --trace_request_generator_config_trace_file {trace} --trace_request_generator_config_max_tokens 131072
            --vllm_v1_scheduler_config_block_size {block_size}
            --vllm_v1_scheduler_config_num_blocks {2_500_000 // block_size}
        """
        time_cache(f"{trace.name}, blocks of {block_size}", cache_config(flags), 3)
    flags = """
        --cluster_config_num_replicas 64 --request_generator_config_type sessions
        --sessions_request_generator_config_num_requests 1000000 --poisson_request_interval_generator_config_qps 50
    """
    time_cache("sessions, 64 replicas", cache_config(flags), 1)


def print_table(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        line = f"{row['name']:28} {row['batches_per_second'] / 1e6:7.2f} M batches/s"
        line += f" {row['requests_per_second'] / 1e3:9.1f} k requests/s"
        if "speedup" in row:
            line += f" {row['speedup']:8.0f} times upstream"
        if "nanoseconds_per_batch" in row:
            line += f" {row['nanoseconds_per_batch']:8.0f} ns/batch"
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="the folder of reference cases")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--million", action="store_true", help="simulate a million requests over 64 replicas")
    parser.add_argument("--cache", type=Path, metavar="TRACE", help="simulate prefix caches: a trace, and sessions")
    options = parser.parse_args()
    if options.cache is not None:
        run_cache(options.cache)
        return 0
    if options.million:
        print(json.dumps(run_million(), indent=2))
        return 0
    if options.golden is not None and not options.golden.is_dir():
        print(f"benchmark: error: --golden: no such folder: {options.golden}", file=sys.stderr)
        return 2
    cases = []
    if options.golden is not None:
        cases = [time_case(GoldenCase(folder)) for folder in sorted(options.golden.iterdir()) if folder.is_dir()]
    sizes = [time_size(replicas, router) for router in ("round_robin", "lor") for replicas in REPLICA_COUNTS]
    if options.json:
        print(json.dumps({"cases": cases, "sizes": sizes}, indent=2))
    else:
        print_table(cases + sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
