"""python -m vidur.main: flags -> a simulation -> a summary on screen and results on disk."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

from vidur.config import SimulationConfig
from vidur.errors import InputError

# A run shorter than this shows no progress bar.
_PROGRESS_AFTER = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate what the flags say. Returns the exit status: 0, 2 for bad input, 130 or 143 for an interrupted run."""
    try:
        config = SimulationConfig.from_cli(argv)
        logging.basicConfig(level=config.log_level.upper(), format="%(message)s", stream=sys.stderr)
        return _simulate(config)
    except InputError as error:
        print(f"vidur: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("vidur: interrupted before there was anything to write", file=sys.stderr)
        return interrupt.args[0] if interrupt.args else 130


class _Signals:
    """While active, SIGTERM ends a run as Ctrl-C does. `status` is the exit status of the signal that came, or 0."""

    def __init__(self) -> None:
        self.status = 0

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.status = 128 + number
        raise KeyboardInterrupt(self.status)


def _simulate(config: SimulationConfig) -> int:
    # These bring in numba: after the flags are known to be good.
    from vidur.metrics.console import print_comparison, print_summary
    from vidur.metrics.writer import write_results
    from vidur.simulator import Simulator, announce_compilation, simulate_beside

    with _Signals() as signals:
        simulator = Simulator(config)
        # Bad input shows here, a router that is not there too, and gets one line.
        _ = simulator.simulation
        announce_compilation()
        with _ProgressBar(len(simulator.requests)) as progress:
            result = simulator.run(progress.update)
        others = {} if signals.status else simulate_beside(config, simulator.requests)
    print_summary(result)
    if others:
        print_comparison({config.cluster_config.global_scheduler_config.get_type(): result, **others})
    folder = Path(config.metrics_config.output_dir) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    write_results(result, folder)
    print(f"Results: {folder}")
    return signals.status


class _ProgressBar:
    """A bar on stderr, on a terminal, once a run has lasted a second."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._finished = -1
        self._started = time.perf_counter()

    def __enter__(self) -> _ProgressBar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("requests finished"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=self._total)
        self._shown = False
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            self._progress.stop()

    def update(self, finished: int, total: int) -> None:
        if finished == self._finished:
            return
        self._finished = finished
        if not self._shown and time.perf_counter() - self._started > _PROGRESS_AFTER:
            self._progress.start()
            self._shown = True
        self._progress.update(self._task, completed=finished)


if __name__ == "__main__":
    sys.exit(main())
