"""NVIDIA's measured tables: skipped where the optional package is absent, but for what its absence says."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from vidur.config import AiconfiguratorExecutionTimePredictorConfig, ReplicaConfig
from vidur.errors import InputError
from vidur.execution_time_predictor import ExecutionTimeTables, TableBounds, build_tables
from vidur.execution_time_predictor.fidelity import compare, read_points, summary
from vidur.extras import install_command

BOUNDS = TableBounds(
    max_batch_tokens=64, max_batch_size=4, max_context_tokens=1024, max_prefill_chunk=32, max_prefill_kv=256
)
needs_package = pytest.mark.skipif(
    find_spec("aiconfigurator_core") is None, reason="the optional package aiconfigurator-core is not installed"
)


def build(**replica: object) -> ExecutionTimeTables:
    return build_tables(AiconfiguratorExecutionTimePredictorConfig(), ReplicaConfig(**replica), BOUNDS)  # type: ignore[arg-type]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("aiconfigurator_core")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    with pytest.raises(InputError, match=re.escape(install_command("aiconfigurator"))):
        build()


def test_a_device_it_never_measured() -> None:
    with pytest.raises(InputError, match="--replica_config_device a40: aiconfigurator has no tables"):
        build(device="a40")


@needs_package
def test_agrees_with_reference_iterations(shared: Path) -> None:
    points = read_points(shared / "vidur" / "iteration_points.json")
    figures = summary(compare(points, AiconfiguratorExecutionTimePredictorConfig()))
    assert figures["max"] < 0.001


@needs_package
@pytest.mark.parametrize("device", ["a100", "h100", "h200", "l40s", "b200"])
def test_every_device(device: str) -> None:
    tables = build(device=device, model_name="meta-llama/Llama-3.1-70B", tensor_parallel_size=2, num_pipeline_stages=2)
    assert "aiconfigurator_core tables of" in tables.source
    assert tables.covers(BOUNDS) is None
    for op, times in tables.linear.items():
        assert (times[1:] > 0).all() or op in ("attn_rope", "add", "attn_kv_cache_save")
    assert (tables.attn_prefill[:, 1:] > 0).all()
    assert (tables.attn_decode[1:] > 0).all()


@needs_package
def test_what_it_has_no_times_for() -> None:
    with pytest.raises(InputError, match=r"aiconfigurator has no times for microsoft/phi-2 .*; use roofline") as caught:
        build(model_name="microsoft/phi-2")
    assert "\n" not in str(caught.value)
