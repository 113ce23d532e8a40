"""Run python -m vidur.main: simulate, print a summary and write results."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from vidur.atomic import check_writable
from vidur.config import PPOGlobalSchedulerConfig, SimulationConfig
from vidur.interrupt import check
from vidur.progress import Progress
from vidur.tool import run_tool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 1 if no request was served, else the status of `run_tool`."""
    return run_tool("vidur", lambda words: (SimulationConfig.from_cli(words),), run, argv)


def run(config: SimulationConfig) -> int:
    """Simulate, print and write. An interrupted run writes its results if any request finished, and then raises."""
    logging.basicConfig(level=config.log_level.upper(), format="%(message)s", stream=sys.stderr)
    # These import numba, so wait until the flags are valid.
    from vidur.engine.recording import FINISHED, REFUSED
    from vidur.learned import beta_warning
    from vidur.metrics.console import print_comparison, print_summary
    from vidur.metrics.writer import write_results
    from vidur.simulator import Simulator, announce_compilation, simulate_baselines

    simulator = Simulator(config)
    router = config.cluster_config.global_scheduler_config
    if isinstance(router, PPOGlobalSchedulerConfig) and (warning := beta_warning(router)):
        print(f"vidur: warning: {warning}", file=sys.stderr)
    # Bad input, also a missing router, is reported here.
    _ = simulator.simulation
    check_writable(config.metrics_config.output_dir, config.metrics_config.flag("output_dir"))
    announce_compilation()
    with Progress("requests finished", len(simulator.requests)) as progress:

        def on_slice(finished: int, total: int) -> None:
            check()
            progress.update(finished)

        result = simulator.run(on_slice)
    statuses = result.recording.requests["status"]
    nothing = not (statuses == FINISHED).any()
    if simulator.interrupted and nothing:
        raise KeyboardInterrupt("there were no results to write")
    others = {} if simulator.interrupted or nothing else simulate_baselines(config, simulator.requests)
    print_summary(result)
    if others:
        print_comparison({router.get_type(): result, **others})
    if nothing:
        refused = int((statuses == REFUSED).sum())
        reason = f"{refused:,} of {len(statuses):,} do not fit into the KV-cache of a replica" if refused else (
            f"none had finished after --time_limit {config.time_limit} s" if config.time_limit else
            "no replica was there to serve them to the end"
        )  # fmt: skip
        print(f"vidur: no request was served, so nothing is written: {reason}", file=sys.stderr)
        return 1
    folder = Path(config.metrics_config.output_dir) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    write_results(result, folder, others)
    print(f"Results: {folder}")
    if simulator.interrupted:
        raise KeyboardInterrupt("partial results are written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
