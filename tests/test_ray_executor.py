"""The executor on a real Ray cluster of two workers on this machine."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ray_jobs import die_at_one, noted, refuse_three, square_slowly

from vidur.compare.cell import Cell
from vidur.compare.config import CompareConfig
from vidur.compare.executor import Failure, ProcessExecutor
from vidur.compare.figures import Objectives
from vidur.compare.policy_file import PolicyFile
from vidur.compare.ray_executor import RETRIES, RayExecutor, _run
from vidur.compare.record import CellRecord
from vidur.compare.store import CellStore
from vidur.compare.sweep import make_executor
from vidur.compare.version import code_version
from vidur.config import PPOGlobalSchedulerConfig, SimulationConfig
from vidur.errors import InputError

# Not by importing it: the executor has to do that, with its own environment.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra ray"),
]

VERSION = code_version(PPOGlobalSchedulerConfig())


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        # The workers import the jobs from here.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        with RayExecutor(workers=2) as executor:
            yield executor


class KillingExecutor:
    """Runs jobs on a cluster and kills the process of one of them while it runs."""

    def __init__(self, executor: RayExecutor, folder: Path, victim: int) -> None:
        self._executor = executor
        self._folder = folder
        self._victim = folder / f"{victim}.pid"

    def __enter__(self) -> KillingExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None: ...

    def run(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        killer = threading.Thread(target=self._kill)
        killer.start()
        yield from self._executor.run(noted, [(str(self._folder), i, function, job) for i, job in enumerate(jobs)])
        killer.join()

    def _kill(self) -> None:
        for _ in range(12_000):
            if self._victim.exists() and (text := self._victim.read_text()).endswith("\n"):
                os.kill(int(text), signal.SIGKILL)
                return
            time.sleep(0.005)

    def processes(self, place: int) -> list[str]:
        """Those that have begun the job."""
        return (self._folder / f"{place}.pid").read_text().split()


def test_a_killed_worker_loses_nothing(cluster: RayExecutor, tmp_path: Path) -> None:
    killing = KillingExecutor(cluster, tmp_path, victim=2)
    assert dict(killing.run(square_slowly, range(6))) == {number: number**2 for number in range(6)}
    assert len(killing.processes(2)) == 2
    assert [len(killing.processes(place)) for place in (0, 1, 3, 4, 5)] == [1] * 5
    everyone = {process for place in range(6) for process in killing.processes(place)}
    assert len(everyone) == 3, "two workers, and the one in place of the killed one"


def test_a_sweep_with_a_killed_worker_has_the_records_of_processes(cluster: RayExecutor, tmp_path: Path) -> None:
    flags = "--cluster_config_num_replicas 2 --synthetic_request_generator_config_num_requests 400 --seed {}"
    cells = [
        Cell("point", "round_robin", seed, SimulationConfig.from_cli(flags.format(seed).split()), Objectives(1.0, 0.05))
        for seed in range(6)
    ]
    (tmp_path / "pids").mkdir()
    killing = KillingExecutor(cluster, tmp_path / "pids", victim=1)
    store = CellStore(tmp_path / "ray", killing)
    counts: list[int] = []
    records = store.run(cells, counts.append)
    assert sum(counts) == 6
    assert len(killing.processes(1)) == 2
    with ProcessExecutor(1) as processes:
        expected = CellStore(tmp_path / "processes", processes).run(cells, lambda count: None)
    for cell, record, other in zip(cells, records, expected, strict=True):
        assert isinstance(record, CellRecord) and isinstance(other, CellRecord)
        assert {**record.to_document(), "seconds": 0} == {**other.to_document(), "seconds": 0}
        assert store.load(cell) is not None
    # What is finished is not run again.
    counts.clear()
    CellStore(tmp_path / "ray", cluster).run(cells, counts.append)
    assert counts == [6]


def test_a_job_that_fails_does_not_sink_the_others(cluster: RayExecutor) -> None:
    found = dict(cluster.run(refuse_three, [0, 1, 3]))
    assert found == {
        0: Failure("ZeroDivisionError: integer division or modulo by zero"), 1: 1, 2: Failure("three is not allowed")
    }  # fmt: skip


def test_a_job_that_always_kills_its_worker_is_given_up(cluster: RayExecutor) -> None:
    found = dict(cluster.run(die_at_one, [0, 1, 2]))
    assert found == {0: 0, 1: Failure(f"its worker died {RETRIES + 1} times (WorkerCrashedError)"), 2: 2}


def test_the_cluster_listens_here_only_and_tells_nobody(cluster: RayExecutor) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_cluster_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(InputError, match=r"--ray_address 127\.0\.0\.1:9: no Ray cluster to use there: .*refused"),
        RayExecutor("127.0.0.1:9"),
    ):
        pass


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="another version of vidur"):
        _run(refuse_three, 1, "0" * 16, {})
    assert _run(refuse_three, 1, VERSION, {}) == 1


def test_a_checkpoint_is_brought_to_the_workers(cluster: RayExecutor, tmp_path: Path) -> None:
    config = SimulationConfig.from_cli(["--global_scheduler_config_type", "ppo"])
    path = tmp_path / "policies" / "abc.safetensors"
    cell = Cell("point", "ppo", 0, config, Objectives(1.0, 0.05), policy=PolicyFile(str(path), "abc"))
    path.parent.mkdir()
    path.write_bytes(b"weights")
    elsewhere = tmp_path / "elsewhere" / "abc.safetensors"
    assert _run(refuse_three, 1, VERSION, {str(elsewhere): b"weights"}) == 1
    assert elsewhere.read_bytes() == b"weights"
    moved = dataclasses.replace(cell, policy=PolicyFile(str(elsewhere), "abc"))
    assert [place for place, _ in cluster.run(type, [cell, moved])] in ([0, 1], [1, 0])


def test_the_flag_names_it() -> None:
    assert isinstance(make_executor(CompareConfig(executor="ray", workers=2)), RayExecutor)
