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

# Programs that compile what most tests need, in two processes and then in one: the loop of simulations with what a
# rollout calls, the learned router, and rollouts.
WARM_UP = (
    (
        """
from training import router_flags
from rl.simulate.step import foresee, foresee_callback
from vidur import SimulationConfig, simulate

simulate(SimulationConfig.from_cli([*router_flags(2, 20), "--global_scheduler_config_type", "round_robin"]))
foresee_callback.handle(foresee)
""",
        """
from rl.router.choose import choose_ppo
from rl.router.compiled import encode_callback, score_callback
from rl.router.features import encode_state
from rl.router.scores import score
from vidur.engine.plug import choose_callback

choose_callback.handle(choose_ppo)
encode_callback.handle(encode_state)
score_callback.handle(score)
""",
    ),
    (
        """
import tempfile
from pathlib import Path
import numpy as np
from training import suite_file
from rl.router.features import INTERACTIONS
from rl.simulate.rollout import RunningSimulation
from rl.train.search import linear_policy
from rl.train.suite import TrainingSuite

with tempfile.TemporaryDirectory() as folder:
    episode = TrainingSuite.read(str(suite_file(Path(folder)))).draw(np.random.default_rng(0))
policy = linear_policy(np.zeros(INTERACTIONS), np.zeros(INTERACTIONS), 2)
simulation = RunningSimulation.of(episode.plans, episode.requests, 2, episode.beta, episode.events)
simulation.roll(policy.memory(5.0, True), 20, np.random.default_rng(1))
""",
    ),
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile once, where several processes will test: each would compile for itself."""
    if not session.config.getoption("numprocesses", None):
        return
    from vidur.engine.compile import is_cached  # Numba takes a second to import.

    if not is_cached():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        for programs in WARM_UP:
            compilers = [subprocess.Popen([sys.executable, "-c", program], env=environment) for program in programs]
            for compiler in compilers:
                assert compiler.wait() == 0


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
