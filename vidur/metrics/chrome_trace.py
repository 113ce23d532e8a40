"""Write chrome_trace.json, the batches on a timeline for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidur.atomic import open_atomic
from vidur.engine.recording import Recording


def write_chrome_trace(path: Path, recording: Recording, max_batches: int) -> None:
    """Write one complete event for each stage of each batch, with upstream's fields, in microseconds.

    Writes the first `max_batches` batches with recorded members; `otherData` says how many of how many. Without
    recorded member tokens, num_tokens is the batch's total.
    """
    count = recording.batches["count"]
    with_members = 0 if recording.members is None else len(recording.members[0]) - 1
    total = int(count.sum(dtype=np.int64))
    written = min(int(count[:with_members].sum(dtype=np.int64)), max_batches)
    about = {"batch_stages": total, "batch_stages_written": written, "complete": written == total}
    with open_atomic(path) as file:
        file.write('{"traceEvents": [')
        for number, event in enumerate(_events(recording, with_members, written)):
            file.write(",\n" if number else "\n")
            file.write(event)
        file.write(f'\n], "otherData": {json.dumps(about)}}}\n')


def _events(recording: Recording, num_rows: int, num_batches: int) -> Iterator[str]:
    names = ("replica", "stage", "batch_id", "start", "iteration_time", "count", "batch_size", "num_tokens")
    columns = [recording.batches[name][:num_rows].tolist() for name in names]
    left = num_batches
    for row, (replica, stage, batch_id, start, seconds, count, size, tokens) in enumerate(zip(*columns, strict=True)):
        requests, num_tokens = _members(recording, row, tokens)
        duration = round(seconds * 1e6, 3)
        for within in range(min(count, left)):
            ts = round((start + within * seconds) * 1e6, 3)
            yield (
                f'{{"name": "{requests}", "ph": "X", "ts": {ts}, "dur": {duration}, "pid": {replica}, "tid": {stage}, '
                f'"args": {{"batch_id": {batch_id + within}, "batch_size": {size}, "request_ids": {requests}, '
                f'"num_tokens": {num_tokens}}}}}'
            )
        left -= count
        if left <= 0:
            return


def _members(recording: Recording, row: int, num_tokens: int) -> tuple[str, str]:
    """Return a row's requests and their tokens as JSON lists."""
    assert recording.members is not None
    offsets, requests = recording.members
    members = slice(int(offsets[row]), int(offsets[row + 1]))
    tokens = num_tokens if recording.member_tokens is None else recording.member_tokens[members].tolist()
    return str(requests[members].tolist()), str(tokens)
