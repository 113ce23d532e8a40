"""The learned router on the command line: it routes, it learns while it runs, and it refuses what it cannot use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import BUSY, ROUTER, router_flags

from rl.router.checkpoint import Checkpoint, policy_path
from rl.train.log import read_log
from vidur import SimulationConfig, Simulator, simulate
from vidur.main import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 16])
def test_the_shipped_policy_routes_any_number_of_replicas(replicas: int) -> None:
    result = simulate(SimulationConfig.from_cli(router_flags(replicas, 300)))
    placed = np.bincount(result.recording.requests["replica"], minlength=replicas)
    assert placed.sum() == 300 and (placed > 0).all()


MODELS = [
    ["--cluster_config_replica_groups", "num_replicas=2,device=h100", "num_replicas=3,device=a100,speed=0.5"],
    ["--replica_config_model_name", "meta-llama/Meta-Llama-3-70B", "--replica_config_tensor_parallel_size", "4"],
    ["--replica_config_num_pipeline_stages", "2", "--replica_scheduler_config_type", "vllm_v1"],
    ["--replica_scheduler_config_type", "orca"],
    ["--cluster_config_gauge_refresh_interval", "0"],
    ["--cluster_config_replica_events", "time=5,replica=0,action=fail", "time=9,replica=0,action=return"],
]


@pytest.mark.parametrize("more", MODELS, ids=[" ".join(more[:2]) for more in MODELS])
def test_the_shipped_policy_routes_any_cluster(more: list[str]) -> None:
    words = router_flags(5, 200) if "replica_groups" not in more[0] else [*BUSY, *router_flags(1, 200)[-2:]]
    result = simulate(SimulationConfig.from_cli([*words, *more]))
    assert result.summary["requests"]["finished"] == 200


@pytest.mark.parametrize("beta", [5, 40])
@pytest.mark.parametrize(("prompt", "output", "qps"), [(64, 32, 5), (64, 32, 225), (256, 128, 5), (4000, 128, 3)])
def test_requests_that_are_all_alike_go_everywhere(prompt: int, output: int, qps: int, beta: float) -> None:
    """From the first on, whatever their size and the load: apart is where long and short ones go."""
    lengths = "--fixed_request_length_generator_config_"
    words = [
        *router_flags(2, 3000, beta=beta), "--length_generator_config_type", "fixed",
        f"{lengths}prefill_tokens", str(prompt), f"{lengths}decode_tokens", str(output),
        "--poisson_request_interval_generator_config_qps", str(qps),
    ]  # fmt: skip
    learned = simulate(SimulationConfig.from_cli(words))
    replicas = learned.recording.requests["replica"]
    for part in (replicas[:80], replicas):
        assert np.bincount(part, minlength=2).min() >= 0.25 * len(part)
    in_turns = simulate(SimulationConfig.from_cli([*words, "--global_scheduler_config_type", "round_robin"]))
    mean, theirs = (result.summary["latency"]["e2e"]["mean"] for result in (learned, in_turns))
    assert mean <= 1.01 * theirs


def test_sampling_differs_from_the_best_choice_and_repeats_with_its_seed() -> None:
    placed = {}
    for name, sample, seed in (("best", "false", 1), ("drawn", "true", 1), ("again", "true", 1), ("other", "true", 2)):
        words = router_flags(4, 400)
        words += [f"{ROUTER}sample"] if sample == "true" else []
        placed[name] = simulate(SimulationConfig.from_cli([*words, "--seed", str(seed)])).recording.requests["replica"]
    assert (placed["drawn"] == placed["again"]).all()
    assert (placed["drawn"] != placed["best"]).any() and (placed["drawn"] != placed["other"]).any()


def test_beta_trades_the_mean_of_e2e_for_the_tail_of_ttft() -> None:
    tails, means = [], []
    for beta in (1, 80):
        words = [*router_flags(4, 4000, beta=beta), "--poisson_request_interval_generator_config_qps", "27"]
        summary = simulate(SimulationConfig.from_cli(words)).summary["latency"]
        tails.append(summary["ttft"]["p99"])
        means.append(summary["e2e"]["mean"])
    assert tails[1] < 0.9 * tails[0] and means[1] > means[0]


def test_neither_torch_nor_a_trainer_is_loaded_to_route() -> None:
    program = (
        "import sys; from vidur import SimulationConfig, simulate; "
        f"simulate(SimulationConfig.from_cli({router_flags(2, 20)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    program = "import sys, rl.router.scheduler; assert not {'torch', 'numba', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("checkpoint", ["new", None])
def test_it_learns_while_a_simulation_runs(
    checkpoint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "mine.safetensors"
    words = router_flags(3, 1500, mode="train", output=output, rollout_decisions=256)
    words += [] if checkpoint is None else [f"{ROUTER}checkpoint", checkpoint]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "1,500 of 1,500 finished" in captured.out and "updates" in captured.err
    learned = Checkpoint.load(output)
    assert learned.facts["updates"] >= 4 and learned.facts["decisions"] == 1500
    shipped = Checkpoint.load(policy_path(None))
    if checkpoint is None:
        assert not np.array_equal(learned.weights.replica, shipped.weights.replica)
    folder = tmp_path / "mine_training"
    assert f"Report: {folder / 'report.html'}" in captured.err
    report = (folder / "report.html").read_text()
    # It compares itself with nobody.
    assert "Explained variance" in report and "Against schedulers" not in report
    hyperparameters, rows = read_log(folder)
    assert hyperparameters["rollout_decisions"] == 256
    # A new policy takes the statistics of its features from the first rollout.
    steps = [*range(256, 1500, 256), 1500][1 if checkpoint == "new" else 0 :]
    assert [row["step"] for row in rows] == steps and len(steps) == learned.facts["updates"]
    assert all(np.isfinite(row["scalars"]["losses/value_loss"]) for row in rows)
    assert [row["histograms"]["reward/raw"]["count"] for row in rows] == [*[256] * (len(rows) - 1), 220]
    written = [output, folder / "log.jsonl"]
    before = [path.read_bytes() for path in written]
    assert main(words) == 0 and [path.read_bytes() for path in written] == before
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert main(router_flags(3, 200, checkpoint=output)) == 0


def test_it_learns_with_a_reward_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("terms:\n  - {term: sojourn_time, weight: 1.0}\nclip: {low: -4, high: 8}\n")
    words = router_flags(2, 600, mode="train", checkpoint="new", reward=tmp_path / "mine.yaml", rollout_decisions=128)
    assert main(words) == 0
    assert Path("ppo_policy.safetensors").exists()


def test_a_router_in_training_can_be_asked_decision_by_decision() -> None:
    simulator = Simulator(SimulationConfig.from_cli(router_flags(3, 30, mode="train", checkpoint="new")))
    while (observation := simulator.next_decision()) is not None:
        simulator.place(simulator.router.schedule(observation))
    assert simulator.result().summary["requests"]["finished"] == 30


BAD = [
    ({"checkpoint": "nowhere.safetensors"}, "no such file"),
    ({"checkpoint": "defualt"}, "default"),
    ({"checkpoint": "new"}, "mode train"),
    ({"max_queue_requests": 9}, "max_queue_requests is 9"),
    ({"beta": -1}, "at least 0"),
    ({"mode": "learn"}, "evaluate, train"),
    ({"mode": "train", "reward": "nothing"}, "nothing"),
]


@pytest.mark.parametrize(("ppo", "words"), BAD, ids=[str(ppo) for ppo, _ in BAD])
def test_bad_input_gets_one_line_and_status_2(
    ppo: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(router_flags(2, 20, **ppo)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err, err
