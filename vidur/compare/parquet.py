"""Write results.parquet, a row for each simulation."""

from __future__ import annotations

import io
import math
from pathlib import Path

from vidur.atomic import write_bytes
from vidur.compare.results import Results


def write_parquet(path: Path, results: Results) -> None:
    """Write the columns scenario, load, qps, replicas, scheduler, seed, metrics, seconds (wall clock), command."""
    import pandas as pd

    rows = [
        {
            "scenario": point.scenario.name,
            "load": point.scenario.load,
            "qps": point.scenario.rate,
            "replicas": point.scenario.num_replicas,
            "scheduler": scheduler,
            "seed": seed,
            **{metric: record.figures.get(metric, math.nan) for metric in results.metrics},
            "seconds": record.seconds,
            "command": point.commands[scheduler][seed],
        }
        for point in results.points
        for scheduler in results.schedulers
        for seed, record in sorted(point.records.get(scheduler, {}).items())
    ]
    data = io.BytesIO()
    pd.DataFrame(rows).to_parquet(data, index=False)
    write_bytes(path, data.getvalue())
