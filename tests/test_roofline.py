"""The roofline: closed forms, fidelity to reference iterations, and how times grow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import DEVICES, MODELS, NODES, ReplicaConfig, RooflineExecutionTimePredictorConfig
from vidur.errors import InputError
from vidur.execution_time_predictor import ExecutionTimeTables, TableBounds, build_tables, iteration_ms
from vidur.execution_time_predictor import roofline_constants as constants
from vidur.execution_time_predictor.fidelity import compare, main, read_points, summary
from vidur.execution_time_predictor.grid import TableGrid

SMALL = TableBounds(
    max_batch_tokens=64, max_batch_size=16, max_context_tokens=1024, max_prefill_chunk=64, max_prefill_kv=1024
)


def build(bounds: TableBounds = SMALL, **replica: object) -> ExecutionTimeTables:
    return build_tables(RooflineExecutionTimePredictorConfig(), ReplicaConfig(**replica), bounds)  # type: ignore[arg-type]


def norm(q: float, *terms: float) -> float:
    return float(sum(term**q for term in terms) ** (1 / q))


# H100-SXM, from the fits: FLOP and bytes per microsecond.
PEAK, BANDWIDTH, SMS = 989e6, 3350e3, 132


def h100_gemm(m: int, k: int, n: int) -> float:
    num_bytes = 2 * (m * k + k * n + m * n)
    return 3.7317 + norm(3.0668, 2 * m * n * k / (0.81044 * PEAK), num_bytes / (0.87088 * BANDWIDTH))


def test_linear_operations_of_an_8b_model_on_two_h100() -> None:
    tables = build(
        model_name="meta-llama/Llama-3.1-8B", device="h100", network_device="h100_dgx", tensor_parallel_size=2
    )
    for tokens in (1, 7, 64):
        expected = {
            "attn_pre_proj": h100_gemm(tokens, 4096, 3072),
            "attn_post_proj": h100_gemm(tokens, 2048, 4096),
            "mlp_up_proj": h100_gemm(tokens, 4096, 14336),
            "mlp_down_proj": h100_gemm(tokens, 7168, 4096),
            "mlp_act": 3 + 2 * 3 * 7168 * tokens / (0.8 * BANDWIDTH),
            "input_layernorm": 3 + 8 * 4096 * tokens / (0.8 * BANDWIDTH),
            "post_attention_layernorm": 3 + 8 * 4096 * tokens / (0.8 * BANDWIDTH),
            "all_reduce": 2.7938 + norm(1.0019, 1.4823, 2 * 4096 * tokens / 260.68e3),
            "attn_rope": 0.0,
            "attn_kv_cache_save": 0.0,
            "add": 0.0,
        }
        for op, microseconds in expected.items():
            assert tables.linear[op][tokens] == pytest.approx(microseconds * 1e-3, rel=1e-12), op
        embedding = norm(1.3343, 3.3305, 4 * 4096 * tokens / (0.18094 * BANDWIDTH)) + expected["all_reduce"]
        assert tables.linear["embedding"][tokens] == pytest.approx(embedding * 1e-3 / 32)
    assert tables.cpu["head"][5] == pytest.approx(h100_gemm(5, 4096, 64128) * 1e-3)


def test_attention_of_an_8b_model_on_h100() -> None:
    tables = build(model_name="meta-llama/Llama-3.1-8B", device="h100")
    for kv, chunk in ((0, 1), (0, 64), (1024, 17)):
        flop = 4 * 32 * 128 * (chunk * kv + chunk * (chunk + 1) / 2)
        num_bytes = 2 * 128 * (2 * chunk * 32 + 2 * (kv + chunk) * 8)
        terms = (
            flop / (0.67953 * PEAK),
            4 * 128 * 128 * chunk / (2.318 * PEAK / SMS),
            num_bytes / (0.39645 * BANDWIDTH),
        )
        assert tables.attn_prefill[kv // 64, chunk] == pytest.approx((12.607 + norm(1.0735, *terms)) * 1e-3)
    for batch, kv in ((1, 0), (16, 1024)):
        num_bytes = batch * 2 * 128 * (2 * kv * 8 + 2 * 32)
        terms = (num_bytes / (0.88776 * BANDWIDTH), 3.1701 * batch * 8 / SMS)
        assert tables.attn_decode[batch, kv // 64] == pytest.approx((12.129 + norm(1.2764, *terms)) * 1e-3)


def test_attention_of_as_many_kv_heads_on_a100_does_not_split_a_long_one() -> None:
    tables = build(TableBounds(8, 1, 4096, 8, 0), model_name="meta-llama/Llama-2-7b-hf", device="a100")
    terms = (2 * 128 * (2 * 4096 * 32 + 64) / (0.72489 * 2039e3), 3.6994 * 32 / 108, 0.023042 * 4096)
    assert tables.attn_decode[1, 64] == pytest.approx((9.0809 + norm(9.9995, *terms)) * 1e-3)


def test_an_mlp_without_gate_and_a_layer_without_second_norm() -> None:
    tables = build(model_name="microsoft/phi-2", device="h100")
    assert "post_attention_layernorm" not in tables.linear
    assert tables.linear["mlp_up_proj"][8] == pytest.approx(h100_gemm(8, 2560, 10240) * 1e-3)
    assert tables.linear["mlp_act"][8] == pytest.approx((3 + 2 * 2 * 10240 * 8 / (0.8 * BANDWIDTH)) * 1e-3)


def test_kv_heads_replicate_beyond_their_number() -> None:
    tables = build(
        model_name="meta-llama/Llama-3.1-8B", device="h100", network_device="h100_dgx", tensor_parallel_size=8
    )
    of_16 = build(
        model_name="meta-llama/Meta-Llama-3-70B", device="h100", network_device="h100_dgx", tensor_parallel_size=8
    )
    assert tables.linear["attn_pre_proj"][8] == pytest.approx(h100_gemm(8, 4096, (4 + 2) * 128) * 1e-3)
    assert of_16.linear["attn_pre_proj"][8] == pytest.approx(h100_gemm(8, 8192, (8 + 2) * 128) * 1e-3)


def test_pipeline_stages_share_the_head_and_send() -> None:
    one = build(model_name="meta-llama/Llama-3.1-8B", device="h100", network_device="h100_dgx")
    two = build(model_name="meta-llama/Llama-3.1-8B", device="h100", network_device="h100_dgx", num_pipeline_stages=2)
    np.testing.assert_allclose(two.cpu["head"], one.cpu["head"] / 2)
    assert two.linear["send_recv"][64] == pytest.approx((7.7 + 2 * 4096 * 64 / 358.82e3) * 1e-3)
    assert "send_recv" not in one.linear
    apart = build(
        model_name="meta-llama/Llama-3.1-70B", device="h100", network_device="h100_dgx",
        tensor_parallel_size=8, num_pipeline_stages=2,
    )  # fmt: skip
    assert apart.linear["send_recv"][64] == pytest.approx((19.7 + 2 * 8192 * 64 / 36.027e3) * 1e-3)


def test_constants_are_those_of_the_reference(shared: Path) -> None:
    reference = json.loads((shared / "vidur" / "roofline_constants.json").read_text())
    names = {
        "launch_us": "t0_us",
        "compute": "ec",
        "memory": "em",
        "ramp": "el",
        "tile_us": "ct_us",
        "token_us": "tau_us",
    }
    for device in ("a100", "h100"):
        fits = reference["gpus"][f"{device}_sxm"]
        found = constants.DEVICE_CONSTANTS[device]
        expected = {
            "gemm": fits["gemm"]["aic"],
            "prefill": fits["attn_prefill"]["aic"],
            "decode": fits["attn_decode"]["aic"],
            "decode_mha": fits["attn_decode_mha"]["aic"],
            "embedding": fits["eltwise"]["emb"],
        }
        for op, fit in expected.items():
            ours = getattr(found, op)
            for item in fields(ours):
                assert getattr(ours, item.name) == fit["constants"].get(names.get(item.name, item.name), 0.0)
        sku, peaks = DEVICES[device], reference["hw"][f"{device}_sxm"]
        assert (sku.peak_flops, sku.memory_bandwidth, sku.num_sms) == (peaks["F"], peaks["BW"], peaks["SM"])
        for count, kernels in constants.NETWORK_CONSTANTS[f"{device}_dgx"].all_reduce.items():
            for kernel, size in zip(kernels, ("small", "large"), strict=True):
                fit = fits["allreduce"][f"aic_vllm_graph_n{count}_{size}"]["constants"]
                assert (kernel.launch_us, kernel.floor_us, kernel.bandwidth_gbps, kernel.q) == (
                    fit["a_us"], fit["b_us"], fit["B_GBps"], fit["q"],
                )  # fmt: skip


def test_fidelity_to_reference_iterations(shared: Path) -> None:
    points = read_points(shared / "vidur" / "iteration_points.json")
    figures = summary(compare(points, RooflineExecutionTimePredictorConfig()))
    assert figures["median"] <= 0.03
    assert figures["p95"] <= 0.09
    assert figures["max"] <= 0.16


def test_fidelity_command(shared: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(shared / "vidur" / "iteration_points.json")]) == 0
    out = capsys.readouterr().out
    assert "prefill 512 @ past 7680" in out
    assert out.count("median") == 7
    (tmp_path / "points.json").write_text('{"h100_sxm/tp1": {"idle": 1.0}}')
    assert main([str(tmp_path / "points.json")]) == 2
    assert "'idle': not an iteration" in capsys.readouterr().err


@given(
    device=st.sampled_from(sorted(DEVICES)),
    model=st.sampled_from(["meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.1-70B", "microsoft/phi-2", "Qwen/Qwen-72B"]),
    size=st.sampled_from([1, 2, 4]),
    stages=st.sampled_from([1, 2]),
)
def test_times_are_positive_and_grow(device: str, model: str, size: int, stages: int) -> None:
    bounds = TableBounds(256, 40, 2048, 256, 2048)
    replica = ReplicaConfig(
        model_name=model, device=device, tensor_parallel_size=size, num_pipeline_stages=stages
    )  # the device's default node
    tables = build_tables(RooflineExecutionTimePredictorConfig(), replica, bounds)
    for op, times in tables.linear.items():
        assert times[0] == 0.0
        assert (np.diff(times[1:]) >= 0.0).all(), op
        assert (times[1:] > 0.0).all() or op in ("attn_rope", "add", "attn_kv_cache_save")
    for axis in (0, 1):
        assert (np.diff(tables.attn_prefill[:, 1:], axis=axis) > 0.0).all()
        assert (np.diff(tables.attn_decode[1:], axis=axis) > 0.0).all()
    assert (tables.attn_prefill[:, 0] == 0.0).all()
    assert (tables.attn_decode[0] == 0.0).all()
    assert tables.covers(bounds) is None


@pytest.mark.parametrize("node", sorted(NODES))
def test_an_all_reduce_grows_with_its_message(node: str) -> None:
    bounds = TableBounds(8192, 1, 0, 1, 0)
    for size in (2, 3, 4, 6, 8):
        if size > NODES[node].num_devices_per_node:
            continue
        model = "meta-llama/Llama-3.1-8B" if size in (2, 4, 8) else "internlm/internlm2-20b"
        tables = build(
            bounds, model_name=model, device=NODES[node].device, network_device=node, tensor_parallel_size=size
        )
        assert (np.diff(tables.linear["all_reduce"][1:]) >= 0.0).all()


def test_every_model_on_every_device() -> None:
    for device in DEVICES:
        for model in MODELS:
            tables = build(TableBounds(8, 2, 64, 8, 64), model_name=model, device=device)
            assert np.isfinite(iteration_ms(tables, ReplicaConfig(model_name=model, device=device), [64, 64]))


def test_what_is_scaled_is_said() -> None:
    assert build(device="a100").source == "roofline fitted on a100"
    assert build(device="h200").source == ("roofline of h100 scaled to h200 by peak FLOP/s, memory bandwidth and SMs")
    a40 = build(device="a40", tensor_parallel_size=2, num_pipeline_stages=2).source
    assert "all-reduce scaled from a100_pairwise_nvlink by bandwidth" in a40
    assert "transfers between stages scaled from h100_dgx by bandwidth" in a40
    odd = build(model_name="internlm/internlm2-20b", device="h100", network_device="h100_dgx", tensor_parallel_size=6)
    assert "all-reduce among 6 devices by the constants for 8" in odd.source


def test_twice_the_device_takes_no_longer() -> None:
    slow, fast = build(device="h100", network_device="h100_dgx"), build(device="h200")
    assert (fast.attn_decode <= slow.attn_decode).all()
    assert all((fast.linear[op] <= slow.linear[op]).all() for op in slow.linear)


def test_tensor_parallelism_across_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="tensor_parallel_size 8 spans nodes: a100_pairwise_nvlink holds 4 devices"):
        build(tensor_parallel_size=8)


def test_a_table_too_large_gets_wider_chunks() -> None:
    bounds = TableBounds(4096, 8, 64, 4096, 64 * 2047)
    grid = TableGrid.of(bounds, 64, max_prefill_entries=1_000_000)
    assert grid.chunk_granularity == 16
    assert len(grid.kv_of_prefill) * (len(grid.chunks) - 1) <= 1_000_000
    assert grid.chunks[-1] >= 4096
    assert "rounded up to 16 tokens" in grid.note
    tables = build(bounds)
    assert tables.chunk_granularity == 4
    assert "prefill chunks rounded up to 4 tokens" in tables.source
    assert tables.covers(bounds) is None


def test_the_default_is_quick_and_light() -> None:
    bounds = TableBounds(512, 128, 4096, 512, 8192)
    build(bounds)
    started = time.perf_counter()
    build(bounds)
    assert time.perf_counter() - started < 0.1
    command = (
        "import sys; import vidur.execution_time_predictor as p, vidur.config as c;"
        "p.build_tables(c.RooflineExecutionTimePredictorConfig(), c.ReplicaConfig(), p.TableBounds(64, 8, 64, 64, 64));"
        "print(sorted({'pandas', 'scipy', 'sklearn', 'numba', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
