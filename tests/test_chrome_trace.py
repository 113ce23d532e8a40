"""chrome_trace.json and event_trace.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recordings import empty_recording, made_up_recording, three_requests

from vidur.engine.recording import Recording
from vidur.metrics.chrome_trace import write_chrome_trace
from vidur.metrics.event_trace import write_event_trace


def trace(path: Path, recording: Recording, max_batches: int = 100) -> dict[str, Any]:
    write_chrome_trace(path / "trace.json", recording, max_batches)
    loaded: dict[str, Any] = json.loads((path / "trace.json").read_text())
    return loaded


def events(path: Path, recording: Recording) -> list[dict[str, Any]]:
    write_event_trace(path / "events.json", recording)
    loaded: list[dict[str, Any]] = json.loads((path / "events.json").read_text())
    return loaded


def test_events_have_upstreams_fields(tmp_path: Path) -> None:
    loaded = trace(tmp_path, three_requests())
    assert loaded["traceEvents"][1] == {
        "name": "[0, 1]",
        "ph": "X",
        "ts": 1e6,
        "dur": 2e6,
        "pid": 0,
        "tid": 0,
        "args": {"batch_id": 1, "batch_size": 2, "request_ids": [0, 1], "num_tokens": [1, 6]},
    }
    assert [event["ts"] for event in loaded["traceEvents"]] == [0, 1e6, 3e6, 10e6, 11e6, 11.5e6, 12e6]
    assert [event["args"]["batch_id"] for event in loaded["traceEvents"]] == list(range(7))
    assert loaded["otherData"] == {"batch_stages": 7, "batch_stages_written": 7, "complete": True}


def test_a_cut_trace_says_so(tmp_path: Path) -> None:
    loaded = trace(tmp_path, three_requests(), max_batches=5)
    assert len(loaded["traceEvents"]) == 5
    assert loaded["otherData"] == {"batch_stages": 7, "batch_stages_written": 5, "complete": False}


def test_only_rows_with_members_are_written(tmp_path: Path) -> None:
    recording = three_requests()
    assert recording.members is not None
    recording.members = (recording.members[0][:3], recording.members[1][:3])
    recording.member_tokens = None
    loaded = trace(tmp_path, recording)
    assert [event["args"]["num_tokens"] for event in loaded["traceEvents"]] == [4, 7]
    recording.members = None
    assert trace(tmp_path, recording)["traceEvents"] == []


def test_stages_of_a_pipeline_are_threads(tmp_path: Path) -> None:
    recording = made_up_recording(20, 2, num_stages=3)
    loaded = trace(tmp_path, recording, max_batches=10**6)
    assert {(event["pid"], event["tid"]) for event in loaded["traceEvents"]} == {
        (r, s) for r in (0, 1) for s in (0, 1, 2)
    }


def test_nothing_to_trace(tmp_path: Path) -> None:
    assert trace(tmp_path, empty_recording())["traceEvents"] == []
    assert events(tmp_path, empty_recording()) == []


def test_event_trace_is_in_order_and_complete(tmp_path: Path) -> None:
    recording = three_requests()
    loaded = events(tmp_path, recording)
    times = [event["time"] for event in loaded]
    assert times == sorted(times)
    kinds = [event["event_type"] for event in loaded]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {2: 3, 3: 7, 4: 7, 5: 3, 6: 7, 7: 7}
    assert loaded[0] == {"time": 0.0, "event_type": 2, "request": 0}
    assert {"time": 0.5, "event_type": 5, "replica_set": [0], "request_mapping": [[0, 1]]} in loaded
    assert {"time": 12.0, "event_type": 4, "batch_id": 5} in loaded


def test_event_trace_of_a_pipeline_ends_batches_once(tmp_path: Path) -> None:
    recording = made_up_recording(20, 2, num_stages=3)
    loaded = events(tmp_path, recording)
    batches = (recording.batches["stage"] == 0).sum()
    kinds = [event["event_type"] for event in loaded]
    assert kinds.count(4) == kinds.count(6) == batches and kinds.count(3) == kinds.count(7) == 3 * batches
