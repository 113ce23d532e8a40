"""Executors, which run the simulations of a sweep; here with processes of this machine."""

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

# Jobs submitted per worker: one running and one waiting.
_AHEAD = 2
WAIT_SECONDS = 1.0
"""Seconds between calls of `on_wait`."""


@dataclass(frozen=True)
class Failure:
    """A job that failed. error: the reason, in one line."""

    error: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Make a Failure of an exception."""
        text = " ".join(str(error).split())
        return cls(text if isinstance(error, InputError) else f"{type(error).__name__}: {text}")


class Executor(Protocol):
    """Runs jobs and continues when one fails. A context manager; leaving it stops the workers.

    on_wait: called about every second while jobs run.
    """

    on_wait: Callable[[], object]

    def __enter__(self) -> Executor: ...

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None: ...

    def run(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R | Failure]]:
        """Yield each job's index and result, in the order in which they finish.

        `function`, jobs and results must be picklable. A job that raises, or whose worker dies, yields a Failure.
        """
        ...


class ProcessExecutor:
    """Runs jobs in `workers` processes of this machine, or one per core if 0."""

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
            # Abandon running jobs; finished cells are on disk.
            for process in set(active_children()) - self._strangers:
                process.terminate()
        self._restart()

    def run(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R | Failure]]:
        """See Executor. If a worker dies, all running jobs are run again one by one to find the culprit."""
        suspects: list[int] = []
        left = iter(range(len(jobs)))
        running: dict[Future[R], int] = {}
        while True:
            for index in left:
                running[self._submit(function, jobs[index])] = index
                if len(running) >= _AHEAD * self._workers:
                    break
            if not running:
                break
            for future in self._wait(running):
                index = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(index)
                else:
                    yield index, _outcome(future)
            if suspects:
                suspects += running.values()
                running.clear()
                self._restart()
                for index in sorted(suspects):
                    future = self._submit(function, jobs[index])
                    self._wait([future])
                    yield index, _outcome(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        self._restart()
                suspects.clear()

    def _wait(self, running: Iterable[Future[R]]) -> set[Future[R]]:
        """Wait for at least one future and return those that are done."""
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
    """Return the result, or a Failure for its exception."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenProcessPool):
        return Failure("its process died: killed from outside, or out of memory")
    return Failure.of(error)


def _begin_worker() -> None:
    """Make Ctrl-C and SIGTERM end the worker at once, and end it when its parent process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
