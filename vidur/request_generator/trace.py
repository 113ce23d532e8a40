"""Read a trace of requests as it is in its file: unscaled, uncut, in file order."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

import numpy as np

from vidur.errors import InputError
from vidur.request_generator.content import Content, Turns
from vidur.request_generator.request_table import FloatArray, IntArray
from vidur.request_generator.trace_file import TraceLines, TraceRows, csv_rows, json_rows, open_trace
from vidur.request_generator.trace_format import FORMATS, TraceFormat, recognise_format


@dataclass(frozen=True)
class Trace:
    """N requests of a file."""

    format: str
    arrived_at: FloatArray  # [N] seconds, at least 0; zeros if arrivals were not read
    prefill_tokens: FloatArray  # [N] at least 1
    decode_tokens: FloatArray  # [N] at least 1
    session_id: IntArray  # [N] -1 for none
    priority: IntArray  # [N]
    content: Content | None  # of the prompts
    turns: Turns | None  # parents may be behind their children
    notes: tuple[str, ...]  # what was left out

    def __len__(self) -> int:
        return len(self.prefill_tokens)


def read_trace(
    path: str,
    flag: str,
    format_name: str = "auto",
    limit: int | None = None,
    arrivals: bool = True,
    hash_block_size: int = 512,
) -> Trace:
    """Read the first `limit` requests of a trace file in one of FORMATS (`auto`: detected by its first line).

    Without `arrivals` the file need not have any, and neither content nor turns are read. Raises InputError naming the
    file and row, or `flag`.
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
        content=_content(rows, form, hash_block_size) if arrivals else None,
        turns=_turns(rows, form) if arrivals else None,
        notes=(),
    )
    if form.zero_is_failed:
        trace = _without_failed(trace, path, limit)
    if form.from_zero and arrivals:
        trace = replace(trace, arrived_at=trace.arrived_at - trace.arrived_at.min())
    return trace


def _read_rows(path: str, file: TraceLines, form: TraceFormat, limit: int | None, arrivals: bool) -> TraceRows:
    optional = [*form.sessions, *(name for name in (form.priority, form.hash_ids) if name)]
    optional += form.turns or ()
    if form.json_lines:
        return json_rows(path, file, [*form.required(arrivals), *optional], limit, form.hash_ids)
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


def _content(rows: TraceRows, form: TraceFormat, block_size: int) -> Content | None:
    """Return what hash_ids say of the prompts. An id stands for a block and all that is before it."""
    if form.hash_ids is None or not any(rows.columns[form.hash_ids]):
        return None
    column, prompts = rows.columns[form.hash_ids], rows.numbers(form.prefill, 1)
    for row, value in enumerate(column):
        if value and not (isinstance(value, array) and min(value) >= 0):
            raise rows.refusal(row, form.hash_ids, "a list of integers from 0 to 2**63 - 1")
    counts = np.fromiter((len(value or ()) for value in column), np.int64, len(rows))
    needed = np.ceil(prompts / block_size).astype(np.int64)
    if (wrong := (counts > 0) & (counts != needed)).any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{rows.path}, row {rows.lines[row]}, column {form.hash_ids}: {counts[row]} ids do not fit "
            f"{form.prefill} {prompts[row]:.0f}: expected {needed[row]}, one for each {block_size} tokens"
        )
    ids = np.concatenate([np.frombuffer(value, np.int64) for value in column if value])
    ids = np.unique(ids, return_inverse=True)[1].astype(np.int64)  # The files' own may be hashes of 63 bits.
    _check_prefixes(rows, form.hash_ids, counts, ids)
    return Content.of_block_ids(counts, ids, prompts.astype(np.int64), block_size)


def _check_prefixes(rows: TraceRows, name: str, counts: IntArray, ids: IntArray) -> None:
    """Raise InputError if an id follows two different ones: then it does not identify a prefix."""
    before = np.concatenate([[-1], ids[:-1]])
    before[(np.cumsum(counts) - counts)[counts > 0]] = -1
    order = np.argsort(ids, kind="stable")
    differs = (np.diff(ids[order]) == 0) & (np.diff(before[order]) != 0)
    if differs.any():
        wrong = int(order[1:][differs].min())
        row = int(np.searchsorted(np.cumsum(counts), wrong, side="right"))
        index = wrong - int((np.cumsum(counts) - counts)[row])
        value = rows.columns[name][row][index]
        raise InputError(
            f"{rows.path}, row {rows.lines[row]}, column {name}: {value} follows another id than in an earlier row: "
            "an id must stand for a block and all that is before it"
        )


def _turns(rows: TraceRows, form: TraceFormat) -> Turns | None:
    """Return which requests follow others, if any do."""
    if form.turns is None:
        return None
    name, parent, think = form.turns
    parents = rows.columns.get(parent, ())
    if not any(map(str.strip, parents)):
        return None
    own = rows.columns.get(name) or [str(number) for number in range(len(rows))]
    numbers = {text.strip(): number for number, text in enumerate(own)}
    if len(numbers) < len(rows):
        row = next(row for row, text in enumerate(own) if numbers[text.strip()] != row)
        raise rows.refusal(row, name, "the name of a single request")
    edges = [(word, row) for row, text in enumerate(parents) for word in text.split()]
    for word, row in edges:
        if word not in numbers:
            what = f"among the {len(rows)} requests by {name}" if name in rows.columns else f"from 0 to {len(rows) - 1}"
            raise rows.refusal(row, parent, what)
    children = np.array([row for _, row in edges], np.int64)
    turns = Turns.of_edges(
        np.array([numbers[word] for word, _ in edges], np.int64), children, rows.numbers(think, 0, blank="0")
    )
    level = turns.in_time(np.zeros(len(rows)))[1]
    if (level < 0).any():
        raise rows.refusal(int(np.argmax(level < 0)), parent, "possible: these requests wait for one another")
    return turns


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
