"""results.parquet: a row for each simulation."""

from __future__ import annotations

import io
from pathlib import Path

from vidur.atomic import write_bytes
from vidur.compare.figures import METRICS
from vidur.compare.results import Results


def write_parquet(path: Path, results: Results) -> None:
    """Columns: scenario, load, qps, replicas, scheduler, seed, each of METRICS, seconds (of wall clock), command."""
    import pandas as pd

    rows = [
        {
            "scenario": its.scenario.name,
            "load": its.scenario.load,
            "qps": its.scenario.rate,
            "replicas": its.scenario.num_replicas,
            "scheduler": scheduler,
            "seed": seed,
            **{metric: record.figures[metric] for metric in METRICS},
            "seconds": record.seconds,
            "command": its.commands[scheduler][seed],
        }
        for its in results.points
        for scheduler in results.schedulers
        for seed, record in sorted(its.records.get(scheduler, {}).items())
    ]
    data = io.BytesIO()
    pd.DataFrame(rows).to_parquet(data, index=False)
    write_bytes(path, data.getvalue())
