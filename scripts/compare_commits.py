"""Whether two commits simulate the same, request by request, bit for bit.

python scripts/compare_commits.py --base FOLDER: a checkout of the other commit, as `git worktree add` makes it.
Both checkouts run in this Python environment, each in a process of its own.

Compared are the scenarios of a sweep file (the standing suite) at every load under every router, and clusters beyond
it: every batching policy with few KV-cache blocks, so that requests are preempted; one and two pipeline stages; a
failing and a slow replica; several routers; gauges by interval; a time limit; decisions from Python, with all that they
see. Of these the recorded batches are compared too. This checkout measures capacities; both get the same flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
SUITE = "suite"
# Routers of the clusters beyond the suite: one that looks at no replica, one at the ledger, one that draws, one that
# looks at everything.
ROUTERS = ("round_robin", "lor", "power_of_two", "ppo")
BATCHERS = ("sarathi", "vllm", "vllm_v1", "orca", "faster_transformer", "lightllm")
# Without a router of its own: decisions come from Python, and what they see is compared.
FROM_PYTHON = "decisions from Python"
# What should have happened to some requests, and the column that says so.
MET = {"preempted": "num_restarts", "routed again": "num_reroutes"}

# Some commits record batches where a trace of them may be written, unless told not to.
_NOTHING_RECORDED = ("--no-metrics_config_enable_chrome_trace",)

Columns: TypeAlias = dict[str, NDArray[Any]]
Tables: TypeAlias = dict[str, Columns]


@dataclass(frozen=True)
class Case:
    """One simulation: a cell of the table, and the flags of python -m vidur.main that give it."""

    scenario: str
    router: str
    flags: Sequence[str]
    from_python: bool = False


def simulate(case: Case) -> Tables:
    """What the simulation of this process's checkout records."""
    # Of the checkout in PYTHONPATH, so nothing but what all commits have.
    from vidur.config import SimulationConfig
    from vidur.simulator import Simulator

    simulator = Simulator(SimulationConfig.from_cli(list(case.flags)))
    seen = []
    if case.from_python:
        while (observation := simulator.next_decision()) is not None:
            arrays = (observation.ledger, observation.gauges, observation.available, observation.arrival)
            digest = hashlib.sha256(str(observation.now).encode())
            for array in (*arrays, observation.hardware, observation.completions):
                digest.update(array.tobytes())
            seen.append(digest.digest()[:8])
            simulator.place(int(simulator.router.schedule(observation)))
        recording = simulator.result().recording
    else:
        recording = simulator.run().recording
    return {
        "requests": recording.requests,
        "batches": recording.batches,
        "replicas": recording.replicas,
        "observations": {"digest": np.frombuffer(b"".join(seen), np.uint64)},
        "cluster": {"end_time": np.array([recording.end_time])},
    }


def serve(cases: BinaryIO, results: BinaryIO) -> None:
    """Simulate the case of each line, until there are no more; results are pickled one after the other."""
    for line in cases:
        pickle.dump(simulate(Case(**json.loads(line))), results)
        results.flush()


class Checkout:
    """A process that simulates with the code of a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def begin(self, case: Case) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(case)).encode() + b"\n")
        self._process.stdin.flush()

    def result(self) -> Tables:
        """Of the case that was begun. Raises EOFError where the process ended, whose stderr says why."""
        assert self._process.stdout is not None
        tables: Tables = pickle.load(self._process.stdout)
        return tables

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def suite_cases(file: str, scenarios: str | None, requests: int, seeds: int) -> Iterator[Case]:
    """Every scenario of a sweep file at every load, under every router that it names."""
    from vidur.compare.config import CompareConfig
    from vidur.compare.schedulers import parse_schedulers
    from vidur.compare.sweep import points_of
    from vidur.compare.sweep_file import SweepFile
    from vidur.config.command_line import flags_of

    sweep, config = SweepFile.read(file), CompareConfig()
    routers = parse_schedulers(sweep.flags.get("schedulers", "all"))
    chosen = None if scenarios is None else scenarios.split(",")
    for entry in sweep.entries:
        if chosen is not None and entry.scenario.name not in chosen:
            continue
        for point in points_of(entry, config):
            for seed in range(config.first_seed, config.first_seed + seeds):
                whole = point.configure(seed, requests)
                for name, router in routers.items():
                    if name in entry.without:
                        continue
                    cluster = dataclasses.replace(whole.cluster_config, global_scheduler_config=router)
                    routed = dataclasses.replace(whole, cluster_config=cluster)
                    flags = [*flags_of(routed), *_NOTHING_RECORDED]
                    assert type(whole).from_cli(flags) == routed
                    yield Case(point.label, name, flags)


def further_cases(requests: int, seeds: int) -> Iterator[Case]:
    """Clusters beyond the suite."""
    more = {
        "a failure and a slow replica": """--cluster_config_replica_events time=8,replica=0,action=slow,factor=2.5
            time=12,replica=1,action=fail time=20,replica=1,action=return time=25,replica=2,action=drain""",
        "3 routers": "--cluster_config_num_routers 3",
        "gauges each 0.5 s": "--cluster_config_gauge_refresh_interval 0.5",
        "a time limit": "--time_limit 15",
    }
    for seed in range(seeds):
        workload = f"""--seed {seed} --synthetic_request_generator_config_seed {seed}
            --cluster_config_num_replicas 3 --length_generator_config_type quantile
            --synthetic_request_generator_config_num_requests {requests}
            --poisson_request_interval_generator_config_qps 24"""
        for batcher in BATCHERS:
            blocks, size = (8000, 1) if batcher == "lightllm" else (500, 16)
            cluster = f"""{workload} --replica_scheduler_config_type {batcher}
                --{batcher}_scheduler_config_num_blocks {blocks} --{batcher}_scheduler_config_block_size {size}
                --quantile_request_length_generator_config_max_tokens 4096"""
            for stages in (1,) if batcher == "lightllm" else (1, 2):
                staged = f"{cluster} --replica_config_num_pipeline_stages {stages}"
                for router in ROUTERS:
                    routed = f"{staged} --global_scheduler_config_type {router}"
                    scenario = f"{batcher}, {stages} stage{'s' * (stages > 1)}"
                    yield Case(scenario, router, routed.split())
                    yield Case(f"{scenario}, {FROM_PYTHON}", router, routed.split(), from_python=True)
                    for name, flags in more.items():
                        yield Case(f"{scenario}, {name}", router, f"{routed} {flags}".split())


def differences(ours: Tables, theirs: Tables) -> list[str]:
    """What differs, a line for each column; [] where all bits are equal."""
    lines = []
    for table in sorted({*ours, *theirs}):
        mine, other = ours.get(table, {}), theirs.get(table, {})
        for name in sorted({*mine, *other}):
            if name not in mine or name not in other:
                lines.append(f"{table}.{name}: only on {'the other' if name in other else 'this'} side")
            elif (line := column_difference(mine[name], other[name])) is not None:
                lines.append(f"{table}.{name}: {line}")
    return lines


def column_difference(ours: NDArray[Any], theirs: NDArray[Any]) -> str | None:
    """The first difference and the greatest; None where all bits are equal."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return f"{ours.dtype}{list(ours.shape)} here, {theirs.dtype}{list(theirs.shape)} there"
    if ours.tobytes() == theirs.tobytes():
        return None
    width = ours.dtype.itemsize
    bits = [np.frombuffer(column.tobytes(), np.uint8).reshape(-1, width) for column in (ours, theirs)]
    rows = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    first = int(rows[0])
    line = f"{len(rows):,} of {len(ours):,} rows, first row {first}: {ours[first]!s} here, {theirs[first]!s} there"
    far = np.abs(ours[rows].astype(np.float64) - theirs[rows].astype(np.float64))
    return f"{line}; greatest difference {np.max(far, initial=0.0, where=~np.isnan(far)):.3g}"


def print_table(cells: Mapping[tuple[str, str], int], differs: Collection[tuple[str, str]]) -> None:
    """Scenario x router, with the number of requests compared, or where anything differs."""
    routers = list(dict.fromkeys(router for _, router in cells))
    print(f"| requests that are equal | {' | '.join(routers)} |")
    print(f"|---|{'---|' * len(routers)}")
    for scenario in dict.fromkeys(scenario for scenario, _ in cells):
        row = [
            "differs" if (scenario, router) in differs
            else f"{cells[scenario, router]:,}" if (scenario, router) in cells else ""
            for router in routers
        ]  # fmt: skip
        print(f"| {scenario} | {' | '.join(row)} |")


def compare(cases: Sequence[Case], base: Path) -> int:
    """Simulate every case in both checkouts. Returns how many differ."""
    from vidur.progress import Progress

    cells: dict[tuple[str, str], int] = {}
    met: Counter[str] = Counter()
    found: list[tuple[str, str]] = []
    with Checkout(ROOT) as ours, Checkout(base) as theirs, Progress("simulations compared", len(cases)) as progress:
        for case in cases:
            ours.begin(case)
            theirs.begin(case)
            mine, other = ours.result(), theirs.result()
            cell = case.scenario, case.router
            cells[cell] = cells.get(cell, 0) + len(mine["requests"]["status"])
            for word, column in MET.items():
                met[word] += int((mine["requests"][column] > 0).sum())
            if lines := differences(mine, other):
                found.append(cell)
                print(f"{case.scenario}, {case.router}: {' '.join(case.flags)}")
                print("\n".join(f"  {line}" for line in lines), flush=True)
            progress.advance()
    print_table(cells, found)
    happened = ", ".join(f"{count:,} {word}" for word, count in met.items())
    print(f"\n{len(cases):,} simulations of {sum(cells.values()):,} requests ({happened}): {len(found)} differ")
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the checkout of the other commit")
    parser.add_argument("--suite", default=SUITE, metavar="FILE", help="the sweep file (default: the standing suite)")
    parser.add_argument("--scenarios", metavar="NAMES", help="only these of the sweep, with commas; `-` for none")
    parser.add_argument("--requests", type=int, default=4000, metavar="N", help="of a simulation (default: 4000)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="simulations of each kind (default: 1)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(sys.stdin.buffer, sys.stdout.buffer)
        return 0
    if options.base is None or not (options.base / "vidur" / "simulator.py").is_file():
        parser.error("--base must be a checkout of the other commit: `git worktree add FOLDER COMMIT` makes it")
    sys.path.insert(0, str(ROOT))
    cases = [*suite_cases(options.suite, options.scenarios, options.requests, options.seeds)]
    if options.scenarios in (None, "-"):
        cases += further_cases(options.requests, options.seeds)
    return 1 if compare(cases, options.base.resolve()) else 0


if __name__ == "__main__":
    sys.exit(main())
