"""The predictors trained on profiles."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vidur.config import (
    BaseProfiledExecutionTimePredictorConfig,
    LinearRegressionExecutionTimePredictorConfig,
    RandomForrestExecutionTimePredictorConfig,
    ReplicaConfig,
)
from vidur.data_files import warn_once
from vidur.errors import InputError
from vidur.execution_time_predictor import ExecutionTimeTables, TableBounds, build_tables
from vidur.execution_time_predictor.estimators import Estimator, mean_absolute_percentage_error
from vidur.execution_time_predictor.profiles import COMPUTE_OPS, TrainingData
from vidur.execution_time_predictor.tables import UPSTREAM_CPU_OPS
from vidur.extras import install_command

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

MODEL = "meta-llama/Llama-2-7b-hf"
BOUNDS = TableBounds(
    max_batch_tokens=64, max_batch_size=4, max_context_tokens=256, max_prefill_chunk=64, max_prefill_kv=256
)
GRID = {
    "prediction_max_tokens_per_request": 64,
    "prediction_max_batch_size": 4,
    "prediction_max_prefill_chunk_size": 32,
    "num_training_job_threads": 1,
    "k_fold_cv_splits": 2,
}
PARALLEL = {"tensor_parallel_size": 2, "num_pipeline_stages": 2}


@dataclass
class Profiles:
    """A folder of small profiles, and configurations that read them."""

    folder: Path

    def forest(self, **settings: object) -> RandomForrestExecutionTimePredictorConfig:
        few: dict[str, Any] = {"num_estimators": (3,), "max_depth": (8,), "min_samples_split": (2,)}
        return RandomForrestExecutionTimePredictorConfig(**{**self._common(), **few, **settings})

    def regression(self, **settings: object) -> LinearRegressionExecutionTimePredictorConfig:
        few: dict[str, Any] = {
            "polynomial_degree": (1, 2),
            "polynomial_include_bias": (True,),
            "fit_intercept": (True,),
        }
        return LinearRegressionExecutionTimePredictorConfig(**{**self._common(), **few, **settings})

    def _common(self) -> dict[str, Any]:
        names = ("compute", "attention", "all_reduce", "send_recv", "cpu_overhead")
        return GRID | {f"{name}_input_file": str(self.folder / "{DEVICE}" / f"{name}.csv") for name in names}

    def path(self, name: str) -> Path:
        return self.folder / "a100" / f"{name}.csv"

    def edit(self, name: str, **columns: object) -> None:
        pd.read_csv(self.path(name)).assign(**columns).to_csv(self.path(name), index=False)


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    made = Profiles(tmp_path)
    made.path("compute").parent.mkdir()
    for name, frame in made_up_frames().items():
        frame.to_csv(made.path(name), index=False)
    return made


def made_up_frames() -> dict[str, pd.DataFrame]:
    """Linear in the features, so that a regression finds the times again."""
    tokens = np.repeat(np.arange(1, 65, 3), 2)
    shape = {"n_head": 32, "n_kv_head": 32, "n_embd": 4096, "n_expanded_embd": 11008, "vocab_size": 32768}
    compute = pd.DataFrame({"num_tokens": tokens, "num_tensor_parallel_workers": np.tile([1, 2], len(tokens) // 2)})
    compute = compute.assign(**shape, use_gated_mlp=True)
    for number, op in enumerate(COMPUTE_OPS, start=1):
        compute[f"time_stats.{op}.median"] = 0.01 * number + 1e-3 * tokens
    kv, chunk = (axis.ravel() for axis in np.meshgrid(np.arange(0, 257, 64), [16, 32, 64]))
    prefill = pd.DataFrame({"batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": kv})
    prefill["time_stats.attn_prefill.median"] = 0.01 + 1e-4 * kv + 1e-5 * chunk**2
    batch, kv = (axis.ravel() for axis in np.meshgrid([1, 2, 4], np.arange(0, 257, 64)))
    decode = pd.DataFrame({"batch_size": batch, "prefill_chunk_size": 0, "kv_cache_size": kv})
    decode["time_stats.attn_decode.median"] = 0.02 + 1e-3 * batch + 1e-4 * kv
    attention = pd.concat([prefill, decode]).assign(n_embd=4096, n_q_head=32, n_kv_head=32, block_size=16)
    attention["time_stats.attn_kv_cache_save.median"] = 0.005
    attention = pd.concat([attention.assign(num_tensor_parallel_workers=size) for size in (1, 2)])
    size = 8192 * np.arange(1, 65, 4)
    all_reduce = pd.DataFrame({"size": size, "collective": "all_reduce", "num_workers": 2, "devices_per_node": 2})
    all_reduce["time_stats.all_reduce.median"] = 0.01 + size * 1e-7
    send_recv = pd.DataFrame({"size": size, "collective": "send_recv", "devices_per_node": 2})
    send_recv["time_stats.send_recv.median"] = 0.02 + size * 1e-7
    overhead = pd.DataFrame({"model_name": MODEL, "tensor_parallel_degree": 2, "batch_size": [1, 2, 3, 4, 5]})
    for number, op in enumerate(UPSTREAM_CPU_OPS):
        overhead[f"{op}_mean" if op == "ray_comm_time" else f"{op}_median"] = number + overhead["batch_size"]
    return {
        "compute": compute, "attention": attention, "all_reduce": all_reduce, "send_recv": send_recv,
        "cpu_overhead": overhead,
    }  # fmt: skip


def build(
    config: BaseProfiledExecutionTimePredictorConfig,
    cache: Path | None = None,
    bounds: TableBounds = BOUNDS,
    **replica: Any,
) -> ExecutionTimeTables:
    return build_tables(config, ReplicaConfig(**replica), bounds, cache)


def test_a_regression_finds_linear_times_again(profiles: Profiles) -> None:
    tables = build(profiles.regression(skip_cpu_overhead_modeling=False), **PARALLEL)
    tokens = np.arange(1, 65)
    for number, op in enumerate(COMPUTE_OPS, start=1):
        np.testing.assert_allclose(tables.linear[op][1:], 0.01 * number + 1e-3 * tokens, rtol=1e-6)
    np.testing.assert_allclose(tables.linear["all_reduce"][1:], 0.01 + 8192 * tokens * 1e-7, rtol=1e-6)
    np.testing.assert_allclose(tables.linear["send_recv"][1:], 0.02 + 8192 * tokens * 1e-7, rtol=1e-6)
    np.testing.assert_allclose(tables.linear["attn_kv_cache_save"][1:], 0.005, rtol=1e-6)
    kv, chunk = 64 * np.arange(5)[:, None], np.arange(1, 65)[None, :]
    np.testing.assert_allclose(tables.attn_prefill[:, 1:], 0.01 + 1e-4 * kv + 1e-5 * chunk**2, rtol=1e-5)
    batch = np.arange(1, 5)[:, None]
    np.testing.assert_allclose(tables.attn_decode[1:], 0.02 + 1e-3 * batch + 1e-4 * kv.T, rtol=1e-5)
    for number, op in enumerate(UPSTREAM_CPU_OPS):
        np.testing.assert_allclose(tables.cpu[op][1:], number + np.arange(1, 5), rtol=1e-6)
    assert tables.token_rounding == 8
    assert tables.covers(BOUNDS) is None


def test_a_forest_over_its_cells_is_the_forest() -> None:
    draw = np.random.default_rng(3)
    features = np.column_stack((64 * draw.integers(0, 9, 80), draw.integers(1, 9, 80) ** 2 * 4099)).astype(float)
    data = TrainingData("attn_prefill", features, draw.random(80), "made up")
    config = RandomForrestExecutionTimePredictorConfig(
        num_estimators=(20,), max_depth=(16,), min_samples_split=(2,), k_fold_cv_splits=2, num_training_job_threads=1
    )
    model = Estimator(config).fit(data)
    rows, columns = 64.0 * np.arange(9), (np.arange(1.0, 60.0) * 11) ** 2
    points = np.array([(row, column) for row in rows for column in columns])
    direct = model.regressor.predict(points).reshape(len(rows), len(columns))
    np.testing.assert_array_equal(model.predict(rows, columns), direct)


def test_equal_profiles_give_equal_tables(profiles: Profiles, tmp_path: Path) -> None:
    for name in ("one", "other"):
        build(profiles.forest(save_tables_file=str(tmp_path / f"{name}.npz")))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()


def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    fitted: list[str] = []
    fit = Estimator.fit

    def counted(self: Estimator, data: TrainingData) -> Any:
        fitted.append(data.op)
        return fit(self, data)

    monkeypatch.setattr(Estimator, "fit", counted)
    return fitted


def test_the_cache_is_by_content(profiles: Profiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, fitted = tmp_path / "cache", count_fits(monkeypatch)
    first = build(profiles.forest(), cache)
    assert len(fitted) == 12
    again = build(profiles.forest(attention_decode_batching_overhead_fraction=0.5), cache)
    assert len(fitted) == 12
    np.testing.assert_array_equal(first.attn_prefill, again.attn_prefill)
    build(profiles.forest(no_cache=True), cache)
    assert len(fitted) == 24
    build(profiles.forest(max_depth=(2,)), cache)
    assert len(fitted) == 36
    profiles.edit("attention", **{"time_stats.attn_kv_cache_save.median": 0.006})
    build(profiles.forest(), cache)
    assert len(fitted) == 48


def test_a_cache_that_cannot_be_written_costs_training_only(
    profiles: Profiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    file, fitted = tmp_path / "file", count_fits(monkeypatch)
    file.write_text("in the way")
    first = build(profiles.forest(), file)
    count = len(fitted)
    second = build(profiles.forest(), file)
    assert count > 0 and len(fitted) == 2 * count
    np.testing.assert_array_equal(first.attn_decode, second.attn_decode)
    (warning,) = caplog.messages
    assert "Trained execution times cannot be kept" in warning and str(file) in warning


def test_a_cache_that_is_too_small_grows(profiles: Profiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, fitted = tmp_path / "cache", count_fits(monkeypatch)
    small = build(profiles.forest(), cache)
    large = build(profiles.forest(), cache, replace(BOUNDS, max_context_tokens=1024, max_batch_size=8))
    assert len(fitted) == 24
    assert large.attn_decode.shape == (9, 17)
    np.testing.assert_array_equal(large.attn_decode[:5, :5], small.attn_decode)
    build(profiles.forest(), cache, replace(BOUNDS, max_batch_tokens=80))
    assert len(fitted) == 36
    build(profiles.forest(), cache, replace(BOUNDS, max_context_tokens=1024, max_batch_tokens=80))
    assert len(fitted) == 36
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_cache_is_written_anew(profiles: Profiles, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = build(profiles.forest(), cache)
    (path,) = cache.iterdir()
    path.write_bytes(b"damaged")
    again = build(profiles.forest(), cache)
    np.testing.assert_array_equal(first.attn_decode, again.attn_decode)
    ExecutionTimeTables.load(path)


def test_attention_of_the_scheduler_s_block_size(profiles: Profiles) -> None:
    frame = pd.read_csv(profiles.path("attention"))
    pd.concat([frame, frame.assign(block_size=32, **{"time_stats.attn_kv_cache_save.median": 0.5})]).to_csv(
        profiles.path("attention"), index=False
    )
    for block_size, expected in ((None, 0.005), (16, 0.005), (32, 0.5)):
        tables = build_tables(profiles.forest(), ReplicaConfig(), BOUNDS, None, block_size)
        assert tables.linear["attn_kv_cache_save"][5] == pytest.approx(expected)
        assert "block size" not in tables.source
    tables = build_tables(profiles.forest(), ReplicaConfig(), BOUNDS, None, 8)
    assert "no attention profile at block size 8: those at 16, 32 used" in tables.source


def test_optional_columns_are_no_time(profiles: Profiles) -> None:
    frame = pd.read_csv(profiles.path("compute")).drop(columns="time_stats.add.median")
    frame["time_stats.input_layernorm.median"] = np.nan
    frame.to_csv(profiles.path("compute"), index=False)
    tables = build(profiles.forest())
    assert (tables.linear["add"] == 0.0).all()
    assert (tables.linear["input_layernorm"] == 0.0).all()


@pytest.mark.parametrize(
    ("name", "columns", "replica", "line"),
    [
        ("compute", {"n_embd": 1}, {}, "no rows with n_embd 4096; it has 1$"),
        ("compute", {"num_tensor_parallel_workers": 8}, {}, "no rows with num_tensor_parallel_workers 1; it has 8$"),
        ("compute", {"time_stats.mlp_act.median": -1}, {}, "row 2: time_stats.mlp_act.median is '-1'; expected"),
        ("compute", {"time_stats.mlp_act.median": "fast"}, {}, "row 2: time_stats.mlp_act.median is 'fast'"),
        ("attention", {"prefill_chunk_size": 0}, {}, "no rows of prefill"),
        ("attention", {"prefill_chunk_size": 16}, {}, "no rows of decode"),
        ("all_reduce", {"num_workers": 4}, PARALLEL, "no rows with num_workers 2; it has 4$"),
        ("send_recv", {"collective": "other"}, PARALLEL, "no rows with collective send_recv; it has other$"),
        ("cpu_overhead", {"model_name": "other"}, PARALLEL, f"no rows with model_name {MODEL}; it has other$"),
    ],
)
def test_rows_that_do_not_serve(
    profiles: Profiles, name: str, columns: dict[str, object], replica: dict[str, Any], line: str
) -> None:
    profiles.edit(name, **columns)
    with pytest.raises(InputError, match=line) as caught:
        build(profiles.forest(skip_cpu_overhead_modeling=name != "cpu_overhead"), **replica)
    assert str(caught.value).startswith(str(profiles.path(name)))
    assert "\n" not in str(caught.value)


def test_files_that_do_not_serve(profiles: Profiles) -> None:
    profiles.path("compute").unlink()
    with pytest.raises(
        InputError, match="--random_forrest_execution_time_predictor_config_compute_input_file: no profile"
    ):
        build(profiles.forest())
    for text in ("", "a,b\n1,2,3\n4\n", "no such column\n1\n"):
        profiles.path("compute").write_text(text)
        with pytest.raises(InputError, match=r"compute\.csv"):
            build(profiles.forest())


def test_without_scikit_learn(profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=re.escape(install_command("profiles"))):
        build(profiles.forest())


def test_the_error_is_upstream_s() -> None:
    measured, predicted = np.array([0.0, 0.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0, 5.0])
    assert mean_absolute_percentage_error(measured, predicted) == pytest.approx((0 + 100 + 50 + 25) / 4)


def test_close_to_what_upstream_trained_on_the_same_profiles(shared: Path) -> None:
    """Upstream's forests are of ten trees and have no seed: two of them differ by as much."""
    folder = shared / "profiling"
    config = RandomForrestExecutionTimePredictorConfig(
        compute_input_file=str(folder / "compute/{DEVICE}/{MODEL}/mlp.csv"),
        attention_input_file=str(folder / "compute/{DEVICE}/{MODEL}/attention.csv"),
        all_reduce_input_file=str(folder / "network/{NETWORK_DEVICE}/all_reduce.csv"),
        send_recv_input_file=str(folder / "network/{NETWORK_DEVICE}/send_recv.csv"),
        num_estimators=(10,), max_depth=(16,), min_samples_split=(2,), k_fold_cv_splits=2, num_training_job_threads=1,
    )  # fmt: skip
    replica = ReplicaConfig(
        model_name="meta-llama/Llama-2-70b-hf", device="h100", network_device="h100_dgx",
        tensor_parallel_size=4, num_pipeline_stages=2,
    )  # fmt: skip
    golden = ExecutionTimeTables.load(shared / "golden" / "vllm_70b_tp4_pp2" / "tables.npz")
    tables = build_tables(config, replica, BOUNDS)
    assert tables.linear.keys() == golden.linear.keys()
    for op, expected in golden.linear.items():
        assert np.median(np.abs(tables.linear[op][1:] / expected[1:] - 1)) < 0.01, op
    assert tables.attn_prefill.shape == golden.attn_prefill.shape
    assert np.median(np.abs(tables.attn_prefill[:, 1:] / golden.attn_prefill[:, 1:] - 1)) < 0.04
    assert np.median(np.abs(tables.attn_decode[1:] / golden.attn_decode[1:] - 1)) < 0.03
