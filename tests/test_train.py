"""Training: it learns, it is the same every time, it survives a kill, and it stops where it goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training import flags, suite_file

import rl.router.compiled  # noqa: F401
import rl.train.__main__ as train
from rl.router.checkpoint import Checkpoint
from rl.router.choose import choose_ppo
from rl.router.features import INTERACTIONS
from rl.simulate.rollout import RunningSimulation
from rl.train.config import SearchConfig
from rl.train.search import linear_policy, search
from rl.train.suite import TrainingSuite
from vidur.extras import install_command
from vidur.scheduler.routers.random import choose_random

ROOT = Path(__file__).resolve().parent.parent


def mean_e2e(policy: Path | None, folder: Path) -> float:
    """Over fresh episodes; of random routing if there is no policy."""
    suite = TrainingSuite.read(str(suite_file(folder)))
    means = []
    for number in range(8):
        episode = suite.draw(np.random.default_rng([77, number]))
        if policy is None:
            engine = episode.run(choose_random, np.zeros(1), 0, np.random.default_rng(number))
        else:
            checkpoint = Checkpoint.load(policy)
            memory = checkpoint.weights.memory(episode.beta, False)
            engine = episode.run(choose_ppo, memory, checkpoint.max_queue_requests)
        means.append(np.nanmean(engine.requests["completed_at"] - engine.requests["arrived_at"]))
    return float(np.mean(means))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of 14,000 decisions."""
    folder = tmp_path_factory.mktemp("trained")
    assert train.main(flags(folder, 14_000)) == 0
    return folder


def test_a_short_training_from_nothing_beats_random(trained: Path) -> None:
    assert mean_e2e(trained / "run" / "policy.safetensors", trained) < 0.8 * mean_e2e(None, trained)
    rows = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    compared = [row["evaluation"]["training"]["mean_e2e"] for row in rows if "evaluation" in row]
    assert compared[-1] < compared[0]
    assert "<html" in (trained / "run" / "report.html").read_text()[:200]
    facts = Checkpoint.load(trained / "run" / "policy.safetensors").facts
    assert facts["training"]["decisions"] == 14_000 and facts["uses_the_future"] is False


def run_files(folder: Path) -> list[bytes]:
    return [(folder / "run" / name).read_bytes() for name in ("log.jsonl", "policy.safetensors")]


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, trained: Path) -> None:
    suite = trained / "suite.yaml"
    command = [sys.executable, "-m", "rl.train", *flags(tmp_path / "killed", 14_000, suite=suite)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # On another number of threads.
    assert train.main(flags(tmp_path / "killed", 14_000, "--resume", "--threads", "1", suite=suite)) == 0
    assert run_files(tmp_path / "killed") == run_files(trained)
    assert train.main(flags(tmp_path / "other", 14_000, "--seed", "1", suite=suite)) == 0
    assert run_files(tmp_path / "other") != run_files(trained)


@pytest.mark.parametrize(
    ("save_every", "file", "advice"),
    [
        ("100000", "policy.safetensors", "there is no checkpoint yet, so start again"),
        ("1", "checkpoint.safetensors", "--resume continues from the last checkpoint"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(save_every: str, file: str, advice: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rl.train", *flags(tmp_path, 10_000_000, "--save_every", save_every)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / file).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == f"rl.train: interrupted; {advice}"


def test_a_loss_that_explodes_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = train.main(flags(tmp_path, 20_000, "--learning_rate", "1e30", "--save_every", "1", "--target_kl", "1e30"))
    assert status == 1
    err = capsys.readouterr().err
    assert "stopped as the" in err and "last good state" in err
    # Loading refuses weights that are not finite.
    assert Checkpoint.load(tmp_path / "run" / "policy.safetensors").facts["updates"] == 0


BAD = [
    (["--resume"], "drop --resume"),
    (["--suite", "defualt"], "default"),
    (["--learning_rat", "1"], "--learning_rate"),
    (["--learning_rate", "0"], "--learning_rate must be above 0"),
    (["--demonstrators", "least_tokens=much"], "SCHEDULER=WEIGHT"),
    (["--demonstrators", "least_tokns=1"], "least_tokens"),
    (["--reward", "marginal"], "marginal_cost"),
    (["--dagger_rounds", "-1"], "at least 0"),
    (["--folder", "/proc/none/run"], "--folder /proc/none/run: nothing can be written there"),
]


@pytest.mark.parametrize(("more", "words"), BAD, ids=[" ".join(more) for more, _ in BAD])
def test_bad_input_gets_one_line_and_status_2(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(flags(tmp_path, 1000, *more)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err, err


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(flags(tmp_path, 600)) == 0
    before = (tmp_path / "run" / "policy.safetensors").read_bytes()
    capsys.readouterr()
    assert train.main(flags(tmp_path, 600)) == 2
    assert "--resume" in capsys.readouterr().err
    assert train.main(flags(tmp_path, 600, "--resume", "--discount", "0.5")) == 2
    assert "--discount 0.99, not 0.5" in capsys.readouterr().err
    assert (tmp_path / "run" / "policy.safetensors").read_bytes() == before


def test_a_rollout_knows_that_the_simulation_ended_where_it_does(tmp_path: Path) -> None:
    suite = TrainingSuite.read(str(suite_file(tmp_path)))
    episode = suite.draw(np.random.default_rng(0))
    policy = linear_policy(np.zeros(INTERACTIONS), np.zeros(INTERACTIONS), 2)
    for decisions, ends in ((75, [False, True]), (100, [False, True]), (149, [False, True]), (150, [True])):
        simulation = RunningSimulation.of(episode.plans, episode.requests, 2, episode.beta, episode.events)
        rollouts = [simulation.roll(policy.memory(5.0, True), decisions, np.random.default_rng(1)) for _ in ends]
        assert [rollout.ended for rollout in rollouts] == ends, decisions
        assert sum(map(len, rollouts)) == len(episode.requests) == 150


def test_the_search_finds_weights_that_cost_less_than_least_tokens(tmp_path: Path) -> None:
    suite = TrainingSuite.read(str(suite_file(tmp_path)))
    config = SearchConfig(search_iterations=6, search_candidates=16, search_episodes=6)
    found = search(suite, 2, config, seed=0, threads=2)
    again = search(suite, 2, config, seed=0, threads=1)
    assert found[2] == again[2] and (found[0] == again[0]).all() and (found[1] == again[1]).all()
    assert np.mean(found[2][-3:]) < 1.0
    assert np.isfinite(linear_policy(found[0], found[1], 2).memory(5.0, False)).all()


@pytest.mark.parametrize("module", ["rl.train", "rl.warm_start"])
def test_without_torch_it_says_what_to_install(module: str) -> None:
    code = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_module('{module}', run_name='__main__')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr == f"{module}: error: training needs torch: {install_command('train')}\n"
