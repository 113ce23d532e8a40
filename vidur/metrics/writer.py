"""A run's folder: which files the flags ask for, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidur.atomic import open_atomic, write_text
from vidur.engine.recording import Columns
from vidur.metrics.batch_runs import counted_requests, only_batches
from vidur.metrics.chrome_trace import write_chrome_trace
from vidur.metrics.columns import batch_columns, request_columns
from vidur.metrics.csv_rows import CHUNK_ROWS, format_rows, header_line, write_csv
from vidur.metrics.event_trace import write_event_trace
from vidur.metrics.operations import write_operation_metrics
from vidur.metrics.report import write_report
from vidur.metrics.result import SimulationResult
from vidur.metrics.token_completions import token_completions


def write_results(
    result: SimulationResult, folder: str | Path, others: Mapping[str, SimulationResult] | None = None
) -> None:
    """Write what the metrics configuration asks for into `folder`, made if need be; docs/output.md lists the files.

    config.json and summary.json are always written, before all others. others: the same requests under other routers,
    by name, which the report shows beside. Raises InputError if wandb is asked for and is
    not installed.
    """
    folder = Path(folder)
    recording, metrics = result.recording, result.config.metrics_config
    write_json(folder / "config.json", result.config.to_dict())
    write_json(folder / "summary.json", result.summary)
    if not metrics.write_metrics:
        return
    if metrics.enable_chrome_trace:
        write_chrome_trace(folder / "chrome_trace.json", recording, metrics.chrome_trace_max_batches)
    if metrics.write_json_trace:
        write_event_trace(folder / "event_trace.json", recording)
    _write_tables(result, folder)
    if metrics.store_plots:
        write_report(folder / "report.html", result, others)
    if metrics.uses_wandb:
        from vidur.metrics.wandb_log import log_to_wandb

        log_to_wandb(result)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write_tables(result: SimulationResult, folder: Path) -> None:
    metrics = result.config.metrics_config
    limits = metrics.min_batch_index, metrics.max_batch_index
    runs = only_batches(result.runs, *limits)
    if metrics.store_request_metrics:
        counted = counted_requests(result.recording, result.runs, *limits)
        write_csv(folder / "request_metrics.csv", request_columns(result.recording, counted))
    if metrics.keep_individual_batch_metrics and metrics.store_batch_metrics:
        _write_batches(folder / "batch_metrics.csv", runs)
    if metrics.keep_individual_batch_metrics and metrics.store_operation_metrics:
        write_operation_metrics(result, runs, folder)
    if metrics.store_token_completion_metrics:
        columns = token_completions(result.recording, result.runs, metrics.subsamples)
        write_csv(folder / "token_completions.csv", columns)


def _write_batches(path: Path, runs: Columns) -> None:
    with open_atomic(path, "wb") as file:
        for number, columns in enumerate(batch_columns(runs, CHUNK_ROWS)):
            if number == 0:
                file.write(header_line(columns))
            file.write(format_rows(list(columns.values())))
