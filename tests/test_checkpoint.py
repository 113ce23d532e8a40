"""Checkpoints: what is saved is loaded, and whatever else is given gets one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from test_foresight import some_weights

from rl.router.checkpoint import FORMAT, Checkpoint, check_queue_requests, policy_path
from rl.router.policy import Normaliser
from vidur.errors import InputError
from vidur.main import main

DEPTH = 2
Edit = Callable[[dict[str, Any], dict[str, str]], None]


def a_checkpoint() -> Checkpoint:
    weights = some_weights(DEPTH)
    rng = np.random.default_rng(4)
    features, context = len(weights.replica), len(weights.context)
    normaliser = Normaliser(*(rng.random(size) + 0.5 for size in (features, features, context, context)))
    training = {"adam.0.step": np.array(7.0, np.float32), "generator": np.arange(16, dtype=np.uint8)}
    return Checkpoint(weights, DEPTH, {"seed": 3, "uses_the_future": False}, training, normaliser)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def edited(path: Path, edit: Edit) -> Path:
    """The checkpoint with its arrays and metadata edited."""
    with safe_open(str(path), framework="numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    parts = {key: json.dumps(value) for key, value in json.loads(metadata[FORMAT]).items()}
    edit(arrays, parts)
    metadata = {FORMAT: json.dumps({key: parsed(text) for key, text in parts.items()})}
    target = path.with_name("edited.safetensors")
    save_file(arrays, str(target), metadata)
    return target


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "policy.safetensors"
    a_checkpoint().save(path)
    return path


def test_what_is_saved_is_loaded(saved: Path) -> None:
    made, found = a_checkpoint(), Checkpoint.load(saved, training=True)
    for kind in ("weights", "normaliser"):
        for name, array in vars(getattr(made, kind)).items():
            assert np.array_equal(array, getattr(getattr(found, kind), name)), name
    assert found.training.keys() == made.training.keys()
    for name, array in made.training.items():
        assert np.array_equal(array, found.training[name]) and array.dtype == found.training[name].dtype
    assert (found.max_queue_requests, found.facts) == (DEPTH, made.facts)
    assert Checkpoint.load(saved).training == {}


def test_the_same_checkpoint_is_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    Checkpoint.load(saved, training=True).save(again)
    assert again.read_bytes() == saved.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "policy.safetensors"]


def refused(path: Path, *words: str) -> None:
    """Loading raises InputError, in one line that names the file and has these words."""
    with pytest.raises(InputError) as caught:
        Checkpoint.load(path, training=True)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    for word in words:
        assert word in text


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.safetensors", "no such file", "rl.train")
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_a_truncated_file(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    refused(saved, "damaged")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(np.random.default_rng(seed).bytes(5000))
    refused(path, "damaged")


def test_a_safetensors_file_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"lm_head.weight": np.ones((4, 4), np.float16)}, str(path))
    refused(path, "not a checkpoint of this router")
    save_file({"lm_head.weight": np.ones((4, 4), np.float16)}, str(path), {"format": "pt"})
    refused(path, "not a checkpoint of this router")


def set_spec(kind: str, change: Callable[[list[str]], list[str]]) -> Edit:
    def edit(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        spec = json.loads(metadata["spec"])
        metadata["spec"] = json.dumps({**spec, kind: change(spec[kind])})

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_spec("replica", lambda names: [*names, "temperature"]), "unknown here: temperature"),
        (set_spec("replica", lambda names: names[1:]), "lacks replica features: outstanding"),
        (set_spec("context", lambda names: names[::-1]), "in another order"),
    ],
)
def test_a_checkpoint_of_another_encoder_says_what_differs(saved: Path, edit: Edit, words: str) -> None:
    refused(edited(saved, edit), words, "retrain it")


@pytest.mark.parametrize("name", ["replica", "context", "hidden", "score", "products_by_beta"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(saved: Path, name: str, value: float) -> None:
    def edit(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        arrays[f"policy.{name}"].flat[0] = value

    refused(edited(saved, edit), "not finite")


@pytest.mark.parametrize("name", ["replica", "context", "pooled", "bias_1", "hidden", "bias_2", "score", "products"])
def test_weights_that_are_missing_or_of_another_shape(saved: Path, name: str) -> None:
    def drop(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        del arrays[f"policy.{name}"]

    def flatten(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        arrays[f"policy.{name}"] = np.zeros(3)

    refused(edited(saved, drop), "weights")
    refused(edited(saved, flatten), "weights")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_queue_requests", "many"), ("max_queue_requests", "-3"), ("max_queue_requests", "3000000000"),
        ("spec", "{"), ("spec", "[]"), ("spec", "{\"replica\": 3}"), ("facts", "{"), ("facts", "[1]"),
        ("max_queue_requests", None), ("spec", None), ("facts", None),
    ],
)  # fmt: skip
def test_damaged_metadata(saved: Path, key: str, value: str | None) -> None:
    def edit(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        if value is None:
            del metadata[key]
        else:
            metadata[key] = value

    refused(edited(saved, edit), "metadata")


def test_metadata_that_is_nested_deeply(saved: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    save_file({}, str(saved), {FORMAT: deep})
    refused(saved, "damaged metadata")
    header = f'{{"__metadata__":{deep}}}'.encode()
    saved.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(saved, "damaged, or not a safetensors file")


def test_weights_of_a_type_that_numpy_does_not_have(saved: Path) -> None:
    header = json.dumps(
        {"__metadata__": {FORMAT: "{}"}, "policy.bias_1": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    ).encode()
    saved.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(saved, "cannot be read")


@pytest.mark.parametrize("change", ["missing", "extra", "short", "nan"])
def test_damaged_statistics(saved: Path, change: str) -> None:
    def edit(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        if change == "missing":
            del arrays["normaliser.replica_std"]
        elif change == "extra":
            arrays["normaliser.median"] = np.zeros(3)
        elif change == "short":
            arrays["normaliser.replica_std"] = np.ones(3)
        else:
            arrays["normaliser.replica_std"][0] = np.nan

    refused(edited(saved, edit), "statistics")


def test_another_queue_depth_than_the_checkpoints_is_refused(saved: Path) -> None:
    checkpoint = Checkpoint.load(saved)
    check_queue_requests(checkpoint, None, saved)
    check_queue_requests(checkpoint, DEPTH, saved)
    with pytest.raises(InputError, match=r"observes 2 waiting requests.*is 5"):
        check_queue_requests(checkpoint, 5, saved)


def test_names_of_shipped_policies() -> None:
    assert policy_path(None).is_file()
    assert policy_path("here.safetensors") == Path("here.safetensors")
    with pytest.raises(InputError, match=r"no policy 'defualt'.*default"):
        policy_path("defualt")


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(b"not a policy")
    flags = ["--global_scheduler_config_type", "ppo", "--ppo_global_scheduler_config_checkpoint", str(path)]
    assert main([*flags, "--synthetic_request_generator_config_num_requests", "5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(path) in error and "Traceback" not in error
