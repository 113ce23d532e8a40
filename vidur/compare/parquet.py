"""Write results.parquet, a row for each simulation."""

from __future__ import annotations

import io
from pathlib import Path

from vidur.atomic import write_bytes
from vidur.compare.figures import METRICS
from vidur.compare.results import Results


def write_parquet(path: Path, results: Results) -> None:
    """Write the columns scenario, load, qps, replicas, scheduler, seed, METRICS, seconds (wall clock), command."""
    import pandas as pd

    rows = [
        {
            "scenario": point.scenario.name,
            "load": point.scenario.load,
            "qps": point.scenario.rate,
            "replicas": point.scenario.num_replicas,
            "scheduler": scheduler,
            "seed": seed,
            **{metric: record.figures[metric] for metric in METRICS},
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
