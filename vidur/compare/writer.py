"""Write the result files of a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from vidur.atomic import write_files, write_text
from vidur.compare.markdown import markdown
from vidur.compare.parquet import write_parquet
from vidur.compare.report import write_report
from vidur.compare.results import Results


def write_sweep(results: Results, folder: str | Path, copies: Mapping[str, str | None] | None = None) -> None:
    """Write results.json, summary.md, results.parquet and report.html. copies: further paths by these names.

    Raises OutputError, naming the files that could not be written, after writing the others.
    """
    text = json.dumps({"command": results.command, "date": results.date, "machine": results.machine,
                       "policies": results.policies, "rows": results.rows(),
                       "failures": [vars(failure) for failure in results.failures]},
                      allow_nan=False, indent=1) + "\n"  # fmt: skip
    files: dict[str, Callable[[Path], None]] = {
        "results.json": lambda path: write_text(path, text),
        "summary.md": lambda path: write_text(path, markdown(results)),
        "results.parquet": lambda path: write_parquet(path, results),
        "report.html": lambda path: write_report(path, results),
    }
    for name, copy in (copies or {}).items():
        if copy is not None:
            files[str(Path(copy).absolute())] = files[name]
    write_files(Path(folder), files)
