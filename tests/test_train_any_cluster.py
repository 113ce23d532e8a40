"""Training on clusters of many sizes, queue depths and models: it changes the policy, which then fits any other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from training import CLUSTER, REPLICA, flags, router_flags, suite_file

import rl.train.__main__ as train
from rl.router.checkpoint import Checkpoint
from rl.router.encoder import EncoderSpec
from rl.router.policy import PolicyWeights
from rl.router.scheduler import PPOScheduler
from rl.train.log import read_log
from rl.train.network import Actor
from vidur import SimulationConfig, Simulator, simulate
from vidur.errors import InputError
from vidur.main import main
from vidur.scheduler.routers import RouterContext

# 4 updates; an episode of 150 requests is three rollouts.
SIMULATIONS = 4
ROLLOUT = 50
SHORT = ["--groups", "2", "--members", "2", "--rollout_decisions", str(ROLLOUT), "--minibatch_decisions", "64",
         "--validation_episodes", "2", "--hidden_1", "12", "--hidden_2", "6"]  # fmt: skip
DECISIONS = 4 * SIMULATIONS * ROLLOUT


@dataclass(frozen=True)
class Trained:
    """What a run left: the newest policy, and that with which PPO began."""

    folder: Path
    path: Path
    policy: Checkpoint
    start: PolicyWeights


def trained(folder: Path, *more: str, cluster: str = CLUSTER, replica: str = REPLICA) -> Trained:
    suite = suite_file(folder, cluster, replica)
    assert train.main(flags(folder, DECISIONS, *SHORT, *more, suite=suite)) == 0
    path = folder / "run" / "checkpoint.safetensors"
    policy = Checkpoint.load(path, training=True)
    start = Actor(policy.max_queue_requests, 12, 6)
    start.load_state_dict(
        {name.removeprefix("reference."): torch.from_numpy(np.array(values))
         for name, values in policy.training.items() if name.startswith("reference.")}
    )  # fmt: skip
    return Trained(folder / "run", path, policy, start.weights())


def check_routes(run: Trained, replicas: int) -> None:
    """In a cluster of so many replicas it scores each of them, otherwise than at the start, and serves all requests."""
    simulator = Simulator(SimulationConfig.from_cli(router_flags(replicas, 120, checkpoint=run.path)))
    router = simulator.router
    assert isinstance(router, PPOScheduler)
    context = RouterContext(hardware=simulator.simulation.engine.books.hardware, rng=np.random.default_rng(0))
    start = PPOScheduler(context, run.start, run.policy.max_queue_requests, router.beta, sample=False)
    apart = 0.0
    while (observation := simulator.next_decision()) is not None:
        scores = router.scores(observation)
        assert scores.shape == (replicas,) and np.isfinite(scores).all()
        difference = scores - start.scores(observation)
        # What all replicas have in common changes no choice.
        apart = max(apart, float(np.ptp(difference)))
        simulator.place(router.choose_by(scores))
    assert apart > 1e-3
    assert simulator.result().summary["requests"]["finished"] == 120


LARGE = "{model_name: meta-llama/Meta-Llama-3-70B, device: a100, tensor_parallel_size: 4}"

# (name, cluster trained on, its replicas, model, replicas of another cluster, of Llama 3 8B)
CLUSTERS = [
    ("2", "{num_replicas: 2}", 2, REPLICA, 5),
    ("3, mixed", "{replica_groups: [{num_replicas: 2}, {num_replicas: 1, speed: 0.5}]}", 3, REPLICA, 2),
    ("5, mixed", "{replica_groups: [{num_replicas: 2, device: h100}, {num_replicas: 3}]}", 5, REPLICA, 16),
    ("16", "{num_replicas: 16}", 16, REPLICA, 3),
    ("70B", "{num_replicas: 3}", 3, LARGE, 4),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cluster", "replicas", "replica", "other"), [case[1:] for case in CLUSTERS], ids=[case[0] for case in CLUSTERS]
)
def test_a_policy_of_one_cluster_routes_another(
    cluster: str, replicas: int, replica: str, other: int, tmp_path: Path
) -> None:
    run = trained(tmp_path, cluster=cluster, replica=replica)
    assert run.policy.facts["updates"] == 4
    _, rows = read_log(run.folder)
    shares = [row["histograms"]["policy/action_distribution"] for row in rows if "histograms" in row]
    # Each replica's share of each simulation, over an equal one.
    assert [its["count"] for its in shares] == [replicas * SIMULATIONS] * 4
    assert [its["mean"] for its in shares] == pytest.approx([1.0] * 4)
    assert 0 < rows[-1]["scalars"]["losses/entropy"] <= np.log(replicas)
    check_routes(run, other)


@pytest.mark.parametrize("depth", [0, 1, 4, 8])
def test_the_queue_depth_makes_the_size_of_the_policy(depth: int, tmp_path: Path) -> None:
    run = trained(tmp_path, "--max_queue_requests", str(depth))
    weights = run.policy.weights
    spec = EncoderSpec.of(depth)
    assert run.policy.max_queue_requests == depth
    assert len(weights.replica) + len(weights.products) == len(spec.replica)
    assert weights.pooled.shape == (3 * len(weights.replica), 12) and weights.hidden.shape == (12, 6)
    # PPO moved the weights of every feature that varies.
    assert (weights.replica != run.start.replica).any(1).mean() > 0.5
    check_routes(run, 3)
    with pytest.raises(InputError, match=f"observes {depth} waiting requests per replica.*is {depth + 1}"):
        simulate(SimulationConfig.from_cli(router_flags(3, 20, checkpoint=run.path, max_queue_requests=depth + 1)))


def test_learning_while_a_replica_slows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events = ["--cluster_config_replica_events", "time=20,replica=1,action=slow,factor=5"]
    learned = {}
    for name, more in (("steady", []), ("slowed", events)):
        words = router_flags(3, 900, mode="train", rollout_decisions=150, output=f"{name}.safetensors")
        qps = ["--poisson_request_interval_generator_config_qps", "18"]
        assert main([*words, *qps, *more, "--metrics_config_output_dir", name]) == 0
        _, rows = read_log(tmp_path / f"{name}_training")
        assert [row["step"] for row in rows] == [*range(150, 901, 150)]
        learned[name] = [row["scalars"]["reward/raw"] for row in rows]
        least = [row["histograms"]["policy/action_distribution"]["quantiles"][0] for row in rows]
    # It gives the slow one less and less; `least` is of the simulation in which one slowed.
    assert least[-1] < least[2] < least[1]
    # 18 requests a second: the first two rollouts end before it slows, and from then on requests cost more.
    assert learned["slowed"][:2] == learned["steady"][:2]
    assert max(learned["slowed"][3:]) < min(learned["steady"][3:])
    steady, slowed = (Checkpoint.load(f"{name}.safetensors") for name in learned)
    assert not np.array_equal(slowed.weights.products, steady.weights.products)
    routed = simulate(SimulationConfig.from_cli(router_flags(5, 60, checkpoint=tmp_path / "slowed.safetensors")))
    assert routed.summary["requests"]["finished"] == 60
