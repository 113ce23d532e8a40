"""Read a trace of requests as it is in its file: unscaled, uncut, in file order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vidur.errors import InputError
from vidur.request_generator.request_table import FloatArray, IntArray
from vidur.request_generator.trace_file import TraceLines, TraceRows, csv_rows, json_rows, open_trace
from vidur.request_generator.trace_format import FORMATS, TraceFormat, recognise_format

HashIds = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Trace:
    """N requests of a file."""

    format: str
    arrived_at: FloatArray  # [N] seconds, at least 0; zeros if arrivals were not read
    prefill_tokens: FloatArray  # [N] at least 1
    decode_tokens: FloatArray  # [N] at least 1
    session_id: IntArray  # [N] -1 for none
    priority: IntArray  # [N]
    hash_ids: HashIds | None
    notes: tuple[str, ...]  # what was left out

    def __len__(self) -> int:
        return len(self.prefill_tokens)


def read_trace(
    path: str, flag: str, format_name: str = "auto", limit: int | None = None, arrivals: bool = True
) -> Trace:
    """Read the first `limit` requests of a trace file in one of FORMATS (`auto`: detected by its first line).

    Without `arrivals` the file need not have any. Raises InputError naming the file and row, or `flag`.
    """
    with open_trace(path, flag) as file:
        form = recognise_format(path, file, arrivals) if format_name == "auto" else FORMATS[format_name]
        rows = _read_rows(path, file, form, None if form.zero_is_failed else limit, arrivals)
    least = 0 if form.zero_is_failed else 1
    trace = Trace(
        format=form.name,
        arrived_at=_arrivals(rows, form) if arrivals else np.zeros(len(rows)),
        prefill_tokens=rows.numbers(form.prefill, least),
        decode_tokens=rows.numbers(form.decode, least),
        session_id=_sessions(rows, form),
        priority=rows.integers(form.priority, 0) if form.priority in rows.columns else np.zeros(len(rows), np.int64),
        hash_ids=_hash_ids(rows, form),
        notes=(),
    )
    if form.zero_is_failed:
        trace = _without_failed(trace, path, limit)
    if form.from_zero and arrivals:
        trace = replace(trace, arrived_at=trace.arrived_at - trace.arrived_at.min())
    return trace


def _read_rows(path: str, file: TraceLines, form: TraceFormat, limit: int | None, arrivals: bool) -> TraceRows:
    optional = [*form.sessions, *(name for name in (form.priority, form.hash_ids) if name)]
    if form.json_lines:
        return json_rows(path, file, [*form.required(arrivals), *optional], limit)
    return csv_rows(path, file, form.required(arrivals), optional, limit)


def _arrivals(rows: TraceRows, form: TraceFormat) -> FloatArray:
    """Return arrivals in seconds; timestamps count from the first."""
    if not form.instants:
        return rows.numbers(form.arrival, 0) * form.seconds
    nanoseconds = rows.instants(form.arrival)
    return np.asarray((nanoseconds - nanoseconds.min()) / 1e9)


def _sessions(rows: TraceRows, form: TraceFormat) -> IntArray:
    """Return session numbers if all are integers from 0, else names numbered by first appearance; -1: none."""
    columns = (rows.columns[name] for name in form.sessions if name in rows.columns)
    column = next((column for column in columns if any(value not in (None, "") for value in column)), None)
    if column is None:
        return np.full(len(rows), -1, np.int64)
    names = ["" if value is None else str(value).strip() for value in column]
    if all((name.isdecimal() and len(name) < 19) or name in ("", "-1") for name in names):
        return np.fromiter((int(name or -1) for name in names), np.int64, len(names))
    numbers: dict[str, int] = {"": -1}
    return np.fromiter((numbers.setdefault(name, len(numbers) - 1) for name in names), np.int64, len(names))


def _hash_ids(rows: TraceRows, form: TraceFormat) -> HashIds | None:
    if form.hash_ids is None or not any(rows.columns[form.hash_ids]):
        return None
    for row, value in enumerate(rows.columns[form.hash_ids]):
        if value is not None and not (isinstance(value, list) and all(type(block) is int for block in value)):
            raise rows.refusal(row, form.hash_ids, "a list of integers")
    return tuple(tuple(value or ()) for value in rows.columns[form.hash_ids])


def _without_failed(trace: Trace, path: str, limit: int | None) -> Trace:
    """Return the first `limit` requests that have both prompt and output tokens."""
    kept = np.flatnonzero((trace.prefill_tokens > 0) & (trace.decode_tokens > 0))
    failed = len(trace) - len(kept)
    if not len(kept):
        raise InputError(f"{path} has no request that succeeded: all {failed} lack prompt or output tokens")
    kept = kept[:limit]
    failed = int(kept[-1]) + 1 - len(kept) if limit == len(kept) else failed
    columns = {
        name: getattr(trace, name)[kept]
        for name in ("arrived_at", "prefill_tokens", "decode_tokens", "session_id", "priority")
    }
    return replace(trace, **columns, notes=(f"{failed} failed requests left out",) if failed else ())
