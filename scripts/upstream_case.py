"""Run microsoft/vidur with some flags and record the run in a folder that golden.GoldenCase reads.

cd CHECKOUT && PYTHONPATH=. PYTHON upstream_case.py FOLDER [FLAGS ...], with a Python that has upstream's packages. It
runs `python -m vidur.main FLAGS` without importing this project, and writes into FOLDER: requests.csv (arrivals and
lengths), expected.csv (outcome of each request), tables.npz (execution times), case.json (flags and times).
"""

import csv
import json
import sys
import time
from pathlib import Path

if __name__ == "__main__" and (len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help")):
    print(__doc__)
    sys.exit(0 if sys.argv[1:] else 2)

import numpy as np

import vidur.main
from vidur.entities import Batch
from vidur.simulator import Simulator


class RecordingSimulator(Simulator):
    """Keeps what upstream discards: lengths before restarts, placements, and the time of the event loop."""

    folder: Path
    flags: list

    def __init__(self, config):
        self.clock = Clock()
        super().__init__(config)
        self.init = self.clock.lap()
        self.requests = sorted(
            (event._request for _, event in self._event_queue), key=lambda request: request._arrived_at
        )
        columns = ("id", "arrived_at", "num_prefill_tokens", "num_decode_tokens")
        # Write lengths before the run, because a restart moves decoded tokens into the prompt.
        write_rows(
            self.folder / "requests.csv",
            columns,
            [(request.id, request._arrived_at, *request.size) for request in self.requests],
        )
        self.replica_of = {}
        schedule = self._scheduler.schedule

        def schedule_and_note():
            mapping = schedule()
            self.replica_of.update((request.id, replica) for replica, request in mapping)
            return mapping

        self._scheduler.schedule = schedule_and_note

    def run(self):
        setup = self.clock.lap()
        super().run()
        loop = self.clock.lap()
        self.write_outcome()
        self.write_tables()
        writing = self.clock.lap()
        scheduler = first(self._scheduler._replica_schedulers)
        facts = {
            "flags": self.flags,
            "num_blocks": scheduler._config.num_blocks,
            "max_batch_size": scheduler._max_batch_size,
            "simulated_seconds": self._time,
            "init_seconds": self.init[0],
            "run_seconds": loop[0],
            "run_cpu_seconds": loop[1],
            "recording_seconds": setup[0] + writing[0],
            "recording_cpu_seconds": setup[1] + writing[1],
            "batches": Batch._id + 1,
            "num_requests": len(self.requests),
        }
        (self.folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")

    def write_outcome(self):
        """Write the outcome of each request, with nan for times that never happened, where upstream leaves 0."""
        rows = []
        for request in self.requests:
            scheduled = request._scheduled_at if request._scheduled or request._num_restarts else "nan"
            completed = request._completed_at if request._completed else "nan"
            times = (scheduled, request._prefill_completed_at or "nan", completed)
            total = (request._num_restarts, request._execution_time, request._preempted_time)
            rows.append((request.id, self.replica_of.get(request.id, -1), *times, *total))
        times = ("scheduled_at", "prefill_completed_at", "completed_at")
        total = ("num_restarts", "execution_time", "preempted_time")
        write_rows(self.folder / "expected.csv", ("id", "replica", *times, *total), rows)

    def write_tables(self):
        stage = first(first(self._scheduler._replica_schedulers)._replica_stage_schedulers)
        members = {}
        for op, predictions in stage._execution_time_predictor._predictions.items():
            members[f"{op}.keys"] = np.array(list(predictions), dtype=np.int64)
            members[f"{op}.values"] = np.array(list(predictions.values()), dtype=np.float64)
        np.savez(self.folder / "tables.npz", **members)


class Clock:
    """Wall and CPU seconds from one lap to the next."""

    def __init__(self):
        self.lap()

    def lap(self):
        before = getattr(self, "last", (0.0, 0.0))
        self.last = (time.perf_counter(), time.process_time())
        return self.last[0] - before[0], self.last[1] - before[1]


def first(mapping):
    return next(iter(mapping.values()))


def write_rows(path, columns, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    RecordingSimulator.folder = Path(sys.argv[1])
    RecordingSimulator.flags = sys.argv[2:]
    vidur.main.Simulator = RecordingSimulator
    sys.argv = ["vidur.main", *RecordingSimulator.flags]
    vidur.main.main()
