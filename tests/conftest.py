"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from vidur.progress import Progress

ROOT = Path(__file__).resolve().parent.parent

# Tests are many processes on few cores: more threads in each, of NumPy's and torch's, wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Simulations that compile the kernels that most tests need.
WARM_UP = """
from training import router_flags
from vidur import SimulationConfig, simulate

for more in ([], ["--global_scheduler_config_type", "round_robin"]):
    simulate(SimulationConfig.from_cli([*router_flags(2, 20), *more]))
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile once, where several processes will test: each would compile for itself."""
    if not session.config.getoption("numprocesses", None):
        return
    from vidur.engine.compile import is_cached  # Numba takes a second to import.

    if not is_cached():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        subprocess.run([sys.executable, "-c", WARM_UP], env=environment, check=True)


@pytest.fixture(autouse=True)
def progress_begins_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of progress is one for all work of a process, so a line could be due from an earlier test."""
    monkeypatch.setattr(Progress, "_ticked", 0.0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the project; a test that needs it is skipped where it is absent."""
    path = ROOT.parent / "shared"
    if not (path / "golden").is_dir():
        pytest.skip("the reference data (../shared) is not here")
    return path
