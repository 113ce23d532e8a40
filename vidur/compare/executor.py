"""Where the simulations of a sweep run: an `Executor`, and the one with processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, connection, parent_process
from typing import Any, Protocol, TypeVar

from vidur.errors import InputError

J = TypeVar("J")
R = TypeVar("R")

# Jobs handed out at a time, for each worker: one that runs and one that waits for it.
_AHEAD = 2
WAIT_SECONDS = 1.0
"""Between two calls of `on_wait`."""


@dataclass(frozen=True)
class Failure:
    """A job that gave no result. error: why, in one line."""

    error: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of what a job raised."""
        text = " ".join(str(error).split())
        return cls(text if isinstance(error, InputError) else f"{type(error).__name__}: {text}")


class Executor(Protocol):
    """Runs jobs, and goes on when one fails. Used as a context manager; leaving it stops the workers.

    on_wait: called about every second while jobs run.
    """

    on_wait: Callable[[], object]

    def __enter__(self) -> Executor: ...

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None: ...

    def run(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R | Failure]]:
        """The place of each job in `jobs` with its result, in the order in which they finish.

        function: of a module, and `jobs` and results such that they can be pickled. A job that raises, or whose worker
        dies, gives a Failure; the others go on.
        """
        ...


class ProcessExecutor:
    """Processes of this machine; `workers` of them, or one for each core if 0."""

    def __init__(self, workers: int = 0) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None
        self._strangers = set(active_children())
        self.on_wait: Callable[[], object] = bool

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._pool is None:
            return
        if kind is not None:
            # What is under way is lost; finished cells are on disk.
            for process in set(active_children()) - self._strangers:
                process.terminate()
        self._restart()

    def run(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R | Failure]]:
        """As of Executor. Where a worker dies, all that ran are run again one by one: so the culprit is found."""
        suspects: list[int] = []
        left = iter(range(len(jobs)))
        running: dict[Future[R], int] = {}
        while True:
            for place in left:
                running[self._submit(function, jobs[place])] = place
                if len(running) >= _AHEAD * self._workers:
                    break
            if not running:
                break
            for future in self._wait(running):
                place = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(place)
                else:
                    yield place, _outcome(future)
            if suspects:
                suspects += running.values()
                running.clear()
                self._restart()
                for place in sorted(suspects):
                    future = self._submit(function, jobs[place])
                    self._wait([future])
                    yield place, _outcome(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        self._restart()
                suspects.clear()

    def _wait(self, running: Iterable[Future[R]]) -> set[Future[R]]:
        """Those that are done, once there are any."""
        while not (done := wait(running, WAIT_SECONDS, FIRST_COMPLETED).done):
            self.on_wait()
        return done

    def _submit(self, function: Callable[[J], R], job: J) -> Future[R]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, initializer=_begin_worker)
        return self._pool.submit(function, job)

    def _restart(self) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _outcome(future: Future[Any]) -> Any:
    """The result, or the Failure that an exception makes."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenProcessPool):
        return Failure("its process died: killed from outside, or out of memory")
    return Failure.of(error)


def _begin_worker() -> None:
    """Let Ctrl-C and SIGTERM end the process at once, and end it too where the sweep's own process is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
