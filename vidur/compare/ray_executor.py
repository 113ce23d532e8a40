"""Run the simulations of a sweep on an existing Ray cluster, or on a new one on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vidur.atomic import write_bytes
from vidur.compare.cell import Cell
from vidur.compare.executor import WAIT_SECONDS, Failure
from vidur.compare.version import code_version
from vidur.config import PPOGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.extras import missing_package

J = TypeVar("J")
R = TypeVar("R")

RETRIES = 3
"""How often a job is run again if its worker or machine dies."""

# Ray reads these when imported. The second makes a local cluster listen on 127.0.0.1 only.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Jobs and results are small and are passed by value.
_OBJECT_STORE_BYTES = 100 * 2**20
_SECONDS_TO_CONNECT = 10.0


class RayExecutor:
    """An Executor on Ray.

    address: of a running cluster, as for `ray.init`; None starts one on this machine with `workers` processes (0: one
    per core) and stops it on exit. All machines need the same version of this project; checkpoints are sent to them.
    Entering raises InputError if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, workers: int = 0) -> None:
        self._address = address
        self._workers = workers or len(os.sched_getaffinity(0))
        self.on_wait: Callable[[], object] = bool

    def __enter__(self) -> RayExecutor:
        if self._address is None:
            os.environ.update(_ENVIRONMENT)
        try:
            import ray
        except ImportError:
            raise missing_package("ray") from None
        self._ray: Any = ray
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            ray.init(
                address="local",
                num_cpus=self._workers,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
            return self
        try:
            _knock(self._address)
            ray.init(address=self._address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--ray_address {self._address}: no Ray cluster to use there: {reason}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._ray.shutdown()

    def run(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[tuple[int, R | Failure]]:
        """See Executor. A job whose worker dies is run again up to RETRIES times."""
        errors = self._ray.exceptions
        task: Any = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        version = code_version(PPOGlobalSchedulerConfig())
        files = self._ray.put(_files_of(jobs))
        running = {task.remote(function, job, version, files): index for index, job in enumerate(jobs)}
        while running:
            finished, _ = self._ray.wait(list(running), num_returns=1, timeout=WAIT_SECONDS)
            if not finished:
                self.on_wait()
                continue
            (done,) = finished
            index = running.pop(done)
            try:
                yield index, self._ray.get(done)
            except errors.RayTaskError as error:
                # Ray's errors contain a whole traceback.
                first_line = str(error.cause).partition("\n")[0]
                yield (
                    index,
                    Failure(first_line) if isinstance(error.cause, errors.RayError) else Failure.of(error.cause),
                )
            except errors.RayError as error:
                yield index, Failure(f"its worker died {RETRIES + 1} times ({type(error).__name__})")


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, which Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()


def _files_of(jobs: Sequence[Any]) -> dict[str, bytes]:
    """Return the contents of the checkpoints that jobs read, by path."""
    paths = {job.policy.path for job in jobs if isinstance(job, Cell) and job.policy is not None}
    return {path: Path(path).read_bytes() for path in sorted(paths)}


def _run(function: Callable[[J], R], job: J, version: str, files: Mapping[str, bytes]) -> R:
    """Run a job on a worker. Raises InputError if the worker's code differs."""
    if code_version(PPOGlobalSchedulerConfig()) != version:
        raise InputError("a machine of the Ray cluster has another version of vidur: install this one on it")
    for path, content in files.items():
        # The name contains a hash of the contents, so an existing file is the same.
        if not Path(path).is_file():
            write_bytes(path, content)
    return function(job)
