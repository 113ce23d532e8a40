"""Write event_trace.json, the events in order with upstream's fields and event numbers.

Upstream's events without information of their own (a batch's arrival at a stage, a scheduling without effect) are left
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidur.atomic import open_atomic
from vidur.engine.recording import Recording
from vidur.metrics.timeline import rows_of_replicas

REQUEST_ARRIVAL = 2
BATCH_STAGE_END = 3
BATCH_END = 4
GLOBAL_SCHEDULE = 5
REPLICA_SCHEDULE = 6
REPLICA_STAGE_SCHEDULE = 7

CHUNK = 1 << 16


@dataclass(frozen=True)
class _Stages:
    """Each stage of each batch. is_last: whether it is the last of the replica's pipeline."""

    row: NDArray[np.intp]
    within: NDArray[np.int64]
    is_last: NDArray[np.bool_]


def write_event_trace(path: Path, recording: Recording) -> None:
    """Write a JSON list of events ordered by time, and within an instant by number."""
    stages = _stages(recording)
    times, kinds, subjects = _events(recording, stages)
    order = np.lexsort((kinds, times))
    with open_atomic(path) as file:
        file.write("[")
        for first in range(0, len(order), CHUNK):
            part = order[first : first + CHUNK]
            lines = _lines(recording, stages, times[part], kinds[part], subjects[part])
            file.write((",\n" if first else "\n") + ",\n".join(lines))
        file.write("\n]\n")


def _stages(recording: Recording) -> _Stages:
    batches = recording.batches
    count = batches["count"].astype(np.int64)
    row = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    last_stage = np.zeros(len(recording.replicas["num_blocks"]), np.int64)
    for replica, rows in enumerate(rows_of_replicas(batches["replica"], len(last_stage))):
        last_stage[replica] = batches["stage"][rows].max(initial=0)
    return _Stages(row, within, (batches["stage"] == last_stage[batches["replica"]])[row])


def _events(recording: Recording, stages: _Stages) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.intp]]:
    """Return time and kind of each event, and its request or its index in `stages`."""
    requests, batches = recording.requests, recording.batches
    arrived = np.flatnonzero(~np.isnan(requests["arrived_at"]))
    # Only the last placement of a rerouted request is known, without its time.
    routed = np.flatnonzero((requests["replica"] >= 0) & (requests["num_reroutes"] == 0))
    elapsed = stages.within * batches["iteration_time"][stages.row]
    start = batches["start"][stages.row] + elapsed
    end = start + batches["iteration_time"][stages.row]
    every = np.arange(len(stages.row))
    first = np.flatnonzero(batches["stage"][stages.row] == 0)
    last = np.flatnonzero(stages.is_last)
    scheduled = batches["scheduled_at"][stages.row[first]] + elapsed[first]
    parts = [
        (requests["arrived_at"][arrived], REQUEST_ARRIVAL, arrived),
        (requests["arrived_at"][routed], GLOBAL_SCHEDULE, routed),
        (scheduled, REPLICA_SCHEDULE, first),
        (start, REPLICA_STAGE_SCHEDULE, every),
        (end, BATCH_STAGE_END, every),
        (end[last], BATCH_END, last),
    ]
    times = np.concatenate([time for time, _, _ in parts])
    kinds = np.concatenate([np.full(len(time), kind, np.int8) for time, kind, _ in parts])
    return times, kinds, np.concatenate([subject for _, _, subject in parts])


def _lines(
    recording: Recording,
    stages: _Stages,
    times: NDArray[np.float64],
    kinds: NDArray[np.int8],
    subjects: NDArray[np.intp],
) -> Iterator[str]:
    replicas = recording.requests["replica"]
    batches = recording.batches
    for time, kind, subject in zip(times.tolist(), kinds.tolist(), subjects.tolist(), strict=True):
        head = f'{{"time": {time}, "event_type": {kind}, '
        if kind == REQUEST_ARRIVAL:
            yield f'{head}"request": {subject}}}'
            continue
        if kind == GLOBAL_SCHEDULE:
            replica = replicas[subject]
            yield f'{head}"replica_set": [{replica}], "request_mapping": [[{replica}, {subject}]]}}'
            continue
        row = stages.row[subject]
        replica, stage = batches["replica"][row], batches["stage"][row]
        number = batches["batch_id"][row] + stages.within[subject]
        if kind == REPLICA_SCHEDULE:
            yield f'{head}"replica_id": {replica}, "batch_ids": [{number}]}}'
        elif kind == BATCH_END:
            yield f'{head}"batch_id": {number}}}'
        else:
            is_last = "true" if stages.is_last[subject] else "false"
            yield (
                f'{head}"replica_id": {replica}, "stage_id": {stage}, "batch_id": {number}, '
                f'"batch_stage_id": {subject}, "is_last_stage": {is_last}}}'
            )
