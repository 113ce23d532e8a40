"""The simulations of a sweep on a Ray cluster: an existing one, or one of its own on this machine."""

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
"""How often a job is run again where its worker, or the worker's machine, dies."""

# Ray reads these when it is imported. With the second a cluster of this machine listens on 127.0.0.1 and nowhere else.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Jobs and results are small and travel with the calls.
_OBJECT_STORE_BYTES = 100 * 2**20
_SECONDS_TO_CONNECT = 10.0


class RayExecutor:
    """An Executor. address: of a running cluster, as `ray.init` takes it; None starts one on this machine, with
    `workers` processes or one for each core if 0, and ends it on leaving.

    The machines of a cluster need this project in the same version; checkpoints are brought to them. Entering raises
    InputError where Ray is not installed or the cluster is not there.
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
        """As of Executor. A job whose worker dies is run again, RETRIES times."""
        errors = self._ray.exceptions
        task: Any = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        version = code_version(PPOGlobalSchedulerConfig())
        files = self._ray.put(_files_of(jobs))
        running = {task.remote(function, job, version, files): place for place, job in enumerate(jobs)}
        while running:
            finished, _ = self._ray.wait(list(running), num_returns=1, timeout=WAIT_SECONDS)
            if not finished:
                self.on_wait()
                continue
            (done,) = finished
            place = running.pop(done)
            try:
                yield place, self._ray.get(done)
            except errors.RayTaskError as error:
                # Ray's own errors hold a whole traceback.
                first_line = str(error.cause).partition("\n")[0]
                yield (
                    place,
                    Failure(first_line) if isinstance(error.cause, errors.RayError) else Failure.of(error.cause),
                )
            except errors.RayError as error:
                yield place, Failure(f"its worker died {RETRIES + 1} times ({type(error).__name__})")


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()


def _files_of(jobs: Sequence[Any]) -> dict[str, bytes]:
    """The checkpoints that jobs read, by path."""
    paths = {job.policy.path for job in jobs if isinstance(job, Cell) and job.policy is not None}
    return {path: Path(path).read_bytes() for path in sorted(paths)}


def _run(function: Callable[[J], R], job: J, version: str, files: Mapping[str, bytes]) -> R:
    """On a worker. Raises InputError where its code is another."""
    if code_version(PPOGlobalSchedulerConfig()) != version:
        raise InputError("a machine of the Ray cluster has another version of vidur: install this one on it")
    for path, content in files.items():
        # Its name holds a hash of what is in it.
        if not Path(path).is_file():
            write_bytes(path, content)
    return function(job)
