"""Cloning and DAgger on a small suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training import flags, suite_file

import rl.train.__main__ as train
from rl.router.checkpoint import Checkpoint
from rl.train import warm_start
from rl.train.config import WarmStartConfig, parse_demonstrator
from rl.train.log import read_log
from rl.train.network import Actor
from rl.train.suite import TrainingSuite
from rl.train.warm_start import LabelledStates
from rl.warm_start import main
from vidur.errors import InputError

FAST = ["--validation_episodes", "3", "--hidden_1", "16", "--hidden_2", "8"]


def run(folder: Path, *more: str) -> tuple[int, Path]:
    output = folder / "policy.safetensors"
    return main(["--suite", str(suite_file(folder)), "--output", str(output), *FAST, *more]), output


def test_a_clone_of_least_tokens_decides_as_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, output = run(
        tmp_path, "--demonstrators", "least_tokens", "--clone_decisions", "4000", "--clone_epochs", "20"
    )
    assert status == 0
    shown = capsys.readouterr().out
    assert "least_tokens" in shown and "Agreement" in shown
    cloned = Checkpoint.load(output).facts["clone"]
    row = cloned["demonstrators"][0]
    assert row["scheduler"] == "least_tokens" and row["decisions"] == 4000
    assert row["agreement"] > 0.7
    assert row["cost_of_clone"] < row["cost"] + 0.1
    assert 0 < abs(cloned["mean_e2e"] / row["mean_e2e"] - 1) < 0.1


def test_demonstrators_count_by_their_weights(tmp_path: Path) -> None:
    """One of weight 0 is shown, and not learned."""
    status, output = run(
        tmp_path, "--demonstrators", "random=0", "least_tokens=1", "--clone_decisions", "4000", "--clone_epochs", "15"
    )
    assert status == 0
    agreement = {row["scheduler"]: row["agreement"] for row in Checkpoint.load(output).facts["clone"]["demonstrators"]}
    assert agreement["least_tokens"] > 0.68 > 0.6 > agreement["random"]


def test_dagger_learns_what_placements_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = ["--dagger_rounds", "2", "--dagger_episodes", "12", "--dagger_decisions", "120", "--dagger_epochs", "10"]
    status, output = run(tmp_path, *rounds)
    assert status == 0
    rows = Checkpoint.load(output).facts["rounds"]
    assert rows[-1]["states"] == 2 * 12 * 120
    assert rows[-1]["cost"] < 0.4 * rows[-1]["cost_of_random"]
    first = output.read_bytes()
    assert run(tmp_path, *rounds, "--threads", "1")[0] == 0
    assert output.read_bytes() != b"" and Checkpoint.load(output).facts["rounds"] == rows
    assert np.array_equal(Checkpoint.load(output).weights.replica, _weights_of(first, tmp_path))


def _weights_of(contents: bytes, folder: Path) -> np.ndarray:
    (folder / "first.safetensors").write_bytes(contents)
    return Checkpoint.load(folder / "first.safetensors").weights.replica


def test_the_loss_is_least_where_the_expected_cost_is() -> None:
    """One state whose costs are (0, 1) three times in four and (2, 0) else: on average the first choice is better."""
    torch.manual_seed(0)
    actor = Actor(1, 8, 8)
    count = 400
    costs = torch.tensor([[0.0, 1.0]] * 3 + [[2.0, 0.0]]).repeat(count // 4, 1)
    features = torch.zeros(count, 2, actor.features + len(actor.products))
    features[:, 1, actor.features] = 1.0
    states = LabelledStates(features, torch.zeros(count, 9), torch.ones(count, 2, dtype=torch.bool), costs)
    temperature = 0.5
    config = WarmStartConfig(
        dagger_epochs=60, dagger_temperature=temperature, warm_learning_rate=0.02, warm_minibatch=100
    )
    warm_start._fit(actor, states, config, True, torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = actor(features[:1], states.contexts[:1], states.masks[:1]).exp()[0]
    # Minimising the linear cost and the entropy gives softmax(-E[cost] / temperature).
    assert found.tolist() == pytest.approx(torch.softmax(-costs.mean(0) / temperature, 0).tolist(), abs=0.02)


def test_a_training_says_and_logs_how_well_it_cloned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--demonstrators", "random", "least_tokens=2", "--clone_decisions", "600", "--clone_epochs", "2"]
    assert train.main(flags(tmp_path, 0, *asked)) == 0
    shown = [line.split() for line in capsys.readouterr().err.splitlines()]
    heads = [words[:3] for words in shown if words and words[0] in ("random", "least_tokens", "the")]
    assert heads == [["random", "1", "300"], ["least_tokens", "2", "300"], ["the", "clone", heads[2][2]]]
    _, (first, *_) = read_log(tmp_path / "run")
    cloned = first["clone"]
    assert [row["scheduler"] for row in cloned["demonstrators"]] == ["random", "least_tokens"]
    random, least_tokens = (row["mean_e2e"] for row in cloned["demonstrators"])
    assert max(least_tokens, cloned["mean_e2e"]) < 0.9 * random
    # On the episodes of the validation, at its beta.
    assert cloned["mean_e2e"] == first["evaluation"]["training"]["mean_e2e"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Cloned before PPO" in report and "<td>the clone</td>" in report


@pytest.mark.parametrize("text", ["", "=1", "lor=x", "lor=-1", "lor=inf"])
def test_a_malformed_demonstrator_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="SCHEDULER=WEIGHT"):
        parse_demonstrator(text)


def test_nothing_to_learn_from_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path)[0] == 2
    assert "--demonstrators" in capsys.readouterr().err


def test_a_suite_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    good = suite_file(tmp_path).read_text()
    cases = [
        ("load: [0.75, 0.9]", "load: [0.9, 0.75]", "load"),
        ("requests: 150", "requests: many", "requests"),
        ("poisson_share: 0.5", "poison_share: 0.5", "poisson_share"),
        ("num_replicas: 1}, ", "num_replicas: 0}, ", "num_replicas"),
        ("distribution: azure_conv_2023", "distribution: azure", "azure_conv_2023"),
        ("max_tokens: 16384\n", "", "max_tokens is missing"),
        ("clusters:", "clusters: [", "line 4: not YAML"),
        ("requests: 150", "requests: 150\nload: [0.5, 0.9]", "load is given twice"),
    ]
    for before, after, words in cases:
        assert before in good
        path = tmp_path / "bad.yaml"
        path.write_text(good.replace(before, after))
        with pytest.raises(InputError, match=words) as error:
            TrainingSuite.read(str(path))
        assert "\n" not in str(error.value)
