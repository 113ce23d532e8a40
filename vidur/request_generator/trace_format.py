"""The formats of traces, and their detection."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from vidur.errors import InputError
from vidur.request_generator.trace_file import TraceLines, likeness, missing_column


@dataclass(frozen=True)
class TraceFormat:
    """Names of columns (CSV) or entries (JSON lines); only the first three are required."""

    name: str
    arrival: str
    prefill: str
    decode: str
    sessions: tuple[str, ...] = ()  # alternatives
    priority: str | None = None
    hash_ids: str | None = None
    turns: tuple[str, str, str] | None = None  # a request's id, the ids of its parents, its think time
    json_lines: bool = False
    instants: bool = False  # arrivals are timestamps, not numbers
    seconds: float = 1.0  # seconds in the unit of numeric arrivals
    from_zero: bool = True  # arrivals are shifted so that the first is at 0
    zero_is_failed: bool = False  # requests without prompt or output tokens have failed

    def required(self, arrivals: bool) -> tuple[str, ...]:
        """Return the columns that a file of this format must have, with or without arrivals."""
        return (self.arrival, self.prefill, self.decode) if arrivals else (self.prefill, self.decode)


FORMATS = {
    form.name: form
    for form in (
        TraceFormat(
            "vidur",
            "arrived_at",
            "num_prefill_tokens",
            "num_decode_tokens",
            sessions=("session_id",),
            priority="priority",
            turns=("request_id", "parent", "think"),
            from_zero=False,
        ),
        TraceFormat("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", instants=True),
        TraceFormat(
            "burstgpt", "Timestamp", "Request tokens", "Response tokens", sessions=("Session ID",), zero_is_failed=True
        ),
        TraceFormat(
            "mooncake",
            "timestamp",
            "input_length",
            "output_length",
            sessions=("conversation_id", "session_id"),
            hash_ids="hash_ids",
            json_lines=True,
            seconds=1e-3,
        ),
    )
}


def recognise_format(path: str, file: TraceLines, arrivals: bool) -> TraceFormat:
    """Detect a file's format by its first line: an object, or the header of a CSV.

    Raises InputError, naming what the nearest format lacks, if the header fits none.
    """
    if file.first.lstrip().startswith("{"):
        return FORMATS["mooncake"]
    header = next(csv.reader([file.first]), [])
    names = [name.strip().lower() for name in header]
    forms = [form for form in FORMATS.values() if not form.json_lines]
    missing = {form.name: [name for name in form.required(arrivals) if name.lower() not in names] for form in forms}
    best = min(forms, key=lambda form: (len(missing[form.name]), -_nearness(form, names)))
    lacking = missing[best.name]
    if len(lacking) > 1 and _nearness(best, names) < 2.0:
        columns = "; ".join(f"{form.name}: {', '.join(form.required(arrivals))}" for form in forms)
        raise InputError(f"{path}, row {file.row}: not the header of a trace; formats and their columns: {columns}")
    if lacking:
        raise missing_column(path, file.row, header, lacking[0], best.required(arrivals))
    return best


def _nearness(form: TraceFormat, names: list[str]) -> float:
    return sum(max(likeness(needed, name) for name in names) for needed in form.required(True))
