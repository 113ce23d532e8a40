"""Write the files of a run that its configuration asks for, each atomically."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidur.atomic import open_atomic, write_files, write_text
from vidur.engine.recording import Columns
from vidur.metrics.batch_runs import counted_requests, only_batches
from vidur.metrics.chrome_trace import write_chrome_trace
from vidur.metrics.columns import batch_columns, request_columns
from vidur.metrics.csv_rows import CHUNK_ROWS, format_rows, header_line, write_csv
from vidur.metrics.event_trace import write_event_trace
from vidur.metrics.operations import write_operation_metrics
from vidur.metrics.report import write_report
from vidur.metrics.token_completions import token_completions

if TYPE_CHECKING:
    from vidur.metrics.result import SimulationResult


def write_results(
    result: SimulationResult, folder: str | Path, others: Mapping[str, SimulationResult] | None = None
) -> None:
    """Write the files that the metrics configuration asks for into `folder` (docs/output.md), creating it if needed.

    config.json and summary.json are always written, first. others: results of other routers on the same requests, for
    the report. If some files cannot be written, writes the others and raises OutputError. Raises InputError if wandb is
    configured but not installed.
    """
    write_files(Path(folder), _files(result, others or {}))
    metrics = result.config.metrics_config
    if metrics.write_metrics and metrics.uses_wandb:
        from vidur.metrics.wandb_log import log_to_wandb

        log_to_wandb(result)


def _files(result: SimulationResult, others: Mapping[str, SimulationResult]) -> dict[str, Callable[[Path], None]]:
    """Return the function that writes each configured file."""
    recording, metrics = result.recording, result.config.metrics_config
    files: dict[str, Callable[[Path], None]] = {
        "config.json": lambda path: write_json(path, result.config.to_dict()),
        "summary.json": lambda path: write_json(path, result.summary),
    }
    if not metrics.write_metrics:
        return files
    if metrics.enable_chrome_trace:
        files["chrome_trace.json"] = lambda path: write_chrome_trace(path, recording, metrics.chrome_trace_max_batches)
    if metrics.write_json_trace:
        files["event_trace.json"] = lambda path: write_event_trace(path, recording)
    limits = metrics.min_batch_index, metrics.max_batch_index
    runs = only_batches(result.runs, *limits)
    if metrics.store_request_metrics:
        counted = counted_requests(recording, result.runs, *limits)
        files["request_metrics.csv"] = lambda path: write_csv(path, request_columns(recording, counted))
    if metrics.keep_individual_batch_metrics and metrics.store_batch_metrics:
        files["batch_metrics.csv"] = lambda path: _write_batches(path, runs)
    if metrics.keep_individual_batch_metrics and metrics.store_operation_metrics:
        files["operation_metrics.csv"] = lambda path: write_operation_metrics(result, runs, path.parent)
    if metrics.store_token_completion_metrics:
        columns = token_completions(recording, result.runs, metrics.subsamples)
        files["token_completions.csv"] = lambda path: write_csv(path, columns)
    if metrics.store_plots:
        files["report.html"] = lambda path: write_report(path, result, others)
    return files


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write_batches(path: Path, runs: Columns) -> None:
    with open_atomic(path, "wb") as file:
        for number, columns in enumerate(batch_columns(runs, CHUNK_ROWS)):
            if number == 0:
                file.write(header_line(columns))
            file.write(format_rows(list(columns.values())))
