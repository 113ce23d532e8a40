"""Compare routers over scenarios, loads and seeds, with confidence intervals (docs/compare.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidur.compare.results import Results
    from vidur.config import SimulationConfig

__all__ = ["compare"]


def compare(
    config: SimulationConfig,
    schedulers: Sequence[str],
    *,
    baseline: str | None = None,
    load: Sequence[float] = (),
    qps: Sequence[float] = (),
    seeds: int | str = 5,
    requests: int = 3000,
    metric: str = "mean_e2e",
    workers: int = 0,
    output: str = "simulator_output/compare",
) -> Results:
    """Compare routers on the same requests and cluster, as `python -m vidur.compare` does.

    schedulers: names as for `--schedulers`. baseline: the scheduler to compare with; the first if None. load: arrival
    rates over the measured capacity; qps: rates in requests/s; without either, the configuration's rate. The other
    parameters are flags of that command. Writes finished simulations and results to `output`. Raises InputError, and
    OutputError.
    """
    from vidur.compare.config import CompareConfig
    from vidur.compare.sweep import Sweep, make_executor
    from vidur.compare.sweep_file import SweepFile
    from vidur.compare.writer import write_sweep

    flags = CompareConfig(
        schedulers=",".join(schedulers),
        baseline=schedulers[0] if baseline is None else baseline,
        seeds=str(seeds),
        requests=requests,
        metric=metric,
        workers=workers,
        output=output,
        load=",".join(map(repr, load)) or None,
        qps=",".join(map(repr, qps)) or None,
    )
    sweep = Sweep(flags, SweepFile.of(config))
    with make_executor(flags) as executor:
        results = sweep.run(executor)
    call = f"vidur.compare.compare(config, {list(schedulers)!r}, seeds={seeds!r}, requests={requests})"
    results = dataclasses.replace(results, command=call)
    write_sweep(results, output)
    return results
