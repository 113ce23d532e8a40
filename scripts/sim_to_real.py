"""Make the table of docs/sim-to-real.md: serve loads with real vLLM on this CPU, and simulate the same arrivals.

    PYTHONPATH=. .venv/bin/python scripts/sim_to_real.py FOLDER [--qps 24] [--num_requests 720]

Starts two replicas and a router, and sends loads of one workload with different seeds: one to calibrate, then one under
each scheduler. Takes about three minutes; nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from real_vllm import (
    BLOCK_SIZE,
    KV_BLOCKS,
    MAX_BATCHED_TOKENS,
    MAX_SEQUENCES,
    Process,
    VllmEnvironment,
    free_port,
    start_router,
)

import rl.vllm.calibrate.__main__ as calibrate
import rl.vllm.replay.__main__ as replay
from rl.vllm.replay import load
from vidur.atomic import write_text

SCHEDULERS = ("round_robin", "lor")
# Name of the calibrating load.
CALIBRATES = "round_robin"


def serve(folder: Path, qps: float, num_requests: int) -> None:
    """Write the step logs and the clients' measurements into `folder`."""
    environment = VllmEnvironment.prepare(folder)
    replicas: dict[str, Process] = {}
    try:
        # Pin each replica to a core, because simulated replicas have their own hardware: vLLM's processes wait by
        # spinning and would delay each other.
        cores = sorted(os.sched_getaffinity(0))
        for number, name in enumerate(("a", "b")):
            variables = {"VIDUR_REPLICA_NAME": name, "VIDUR_STEP_LOG": str(folder / f"steps-{name}.jsonl")}
            flags = ["--enable-logging-iteration-details", "--no-enable-prefix-caching"]
            replicas[name] = environment.serve(
                free_port(), folder / f"{name}.log", variables, flags, cores[number % len(cores)]
            )
        for replica in replicas.values():
            replica.healthy()
        runs = [("calibration", CALIBRATES), *((scheduler, scheduler) for scheduler in SCHEDULERS)]
        for seed, (name, scheduler) in enumerate(runs):
            _run(folder, replicas, name, scheduler, seed, qps, num_requests)
    finally:
        for replica in replicas.values():
            replica.stop()


def _run(
    folder: Path, replicas: dict[str, Process], name: str, scheduler: str, seed: int, qps: float, num_requests: int
) -> None:
    """Send one load under one scheduler, keeping its steps separate."""
    logs = {replica: folder / f"steps-{replica}.jsonl" for replica in replicas}
    router = start_router(
        folder / "router.log", replicas.items(), "--scheduler", scheduler, "--access_log", ""
    ).healthy("/ready")
    to = ["--url", router.url, "--qps", str(qps)]
    try:
        warm = [*to, "--num_requests", "30", "--seed", "999", "--output", str(folder / "warm-up.jsonl")]
        failed = load.main(warm)
        before = {replica: log.stat().st_size for replica, log in logs.items()}
        measured = [*to, "--warm_up", "0", "--num_requests", str(num_requests), "--seed", str(seed)]
        failed = failed or load.main([*measured, "--output", str(folder / f"{name}.jsonl")])
    finally:
        router.stop()
    if failed:
        sys.exit(failed)
    for replica, log in logs.items():
        with log.open("rb") as file:
            file.seek(before[replica])
            (folder / f"{name}-steps-{replica}.jsonl").write_bytes(file.read())


def predict(folder: Path) -> int:
    """Replay the loads with execution times from each load's own steps, and from the calibrating load's."""
    text = ""
    for title, source in (("the steps of the same load", None), ("the steps of another load", "calibration")):
        rows: list[str] = []
        for scheduler in SCHEDULERS:
            calibrated = folder / "calibrated" / (source or scheduler)
            failed = _calibrate(folder, source or scheduler, calibrated) or replay.main([
                "--simulation", str(calibrated / "simulation.yaml"),
                "--overhead_from", f"{CALIBRATES}={folder / 'calibration.jsonl'}",
                "--measured", f"{scheduler}={folder / scheduler}.jsonl", "--output", str(calibrated / "table.md"),
            ])  # fmt: skip
            if failed:
                return failed
            lines = (calibrated / "table.md").read_text(encoding="utf-8").splitlines()
            rows += [line for line in lines if line.startswith("|")][2 if rows else 0 :]
        text += "\n".join([f"Execution times from {title}:", "", *rows, "", ""])
    write_text(folder / "table.md", text)
    print(text)
    return 0


def _calibrate(folder: Path, load: str, output: Path) -> int:
    steps = [str(folder / f"{load}-steps-{name}.jsonl") for name in ("a", "b")]
    return calibrate.main([
        "--steps", *steps, "--model", str(folder / "model"), "--num_replicas", "2",
        "--max_num_seqs", str(MAX_SEQUENCES), "--max_num_batched_tokens", str(MAX_BATCHED_TOKENS),
        "--block_size", str(BLOCK_SIZE), "--kv_blocks", str(KV_BLOCKS), "--output", str(output),
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qps", type=float, default=24.0)
    parser.add_argument("--num_requests", type=int, default=720)
    parser.add_argument("--predict", action="store_true", help="only predict from an earlier run")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not options.predict:
        serve(folder, options.qps, options.num_requests)
    return predict(folder)


if __name__ == "__main__":
    sys.exit(main())
