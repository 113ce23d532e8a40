"""Memory planning: upstream's figures, and those computed here in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidur.config import (
    OrcaSchedulerConfig,
    ReplicaConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    VllmV1SchedulerConfig,
)
from vidur.errors import InputError
from vidur.memory_planner import parameters_per_device, plan_groups, plan_memory


def test_the_golden_cases(shared: Path) -> None:
    cases = sorted((shared / "golden").glob("*/case.json"))
    assert cases
    for path in cases:
        case = json.loads(path.read_text())
        (plan,) = plan_groups(SimulationConfig.from_cli(case["flags"]))
        assert (plan.num_blocks, plan.max_batch_size) == (case["num_blocks"], case["max_batch_size"]), path.parent.name


def test_llama_2_7b_on_one_a100_in_closed_form() -> None:
    plan = plan_memory(ReplicaConfig(), SarathiSchedulerConfig(), 4096)
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    request = 2 * 2 * 4096 * 4096 * 32
    slots = int((80 * 2**30 * 0.9 - 2 * weights) // request)
    assert plan.parameters_per_device == weights
    assert plan.parameter_bytes_per_device == 2 * weights
    assert plan.kv_bytes_per_token_per_device == 2 * 2 * 4096 * 32
    assert (plan.memory_slots, plan.max_batch_size, plan.max_blocks_per_request) == (slots, slots, 256)
    assert (plan.num_blocks, plan.kv_tokens) == (256 * slots, 4096 * slots)


@pytest.mark.parametrize(("size", "kv_heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_keys_and_values_are_split_until_one_head_is_left(size: int, kv_heads: int) -> None:
    replica = ReplicaConfig(model_name="meta-llama/Llama-2-70b-hf", tensor_parallel_size=size, device="h200")
    plan_weights = parameters_per_device(replica)
    attention = 8192 * 128 * (2 * 64 // size + 2 * kv_heads)
    assert plan_weights == 80 * (attention + 3 * 8192 * 28672 // size)


def test_stages_share_the_weights_and_add_their_slots() -> None:
    one = plan_memory(ReplicaConfig(), SarathiSchedulerConfig(), 4096)
    two = plan_memory(ReplicaConfig(num_pipeline_stages=2), SarathiSchedulerConfig(), 4096)
    assert two.parameters_per_device == one.parameters_per_device // 2
    assert two.num_blocks == 2 * two.max_batch_size * two.max_blocks_per_request
    assert two.kv_bytes_per_token_per_device == one.kv_bytes_per_token_per_device // 2


def test_an_ungated_mlp_has_two_matrices() -> None:
    weights = parameters_per_device(ReplicaConfig(model_name="microsoft/phi-2"))
    assert weights == 32 * (4 * 2560 * 2560 + 2 * 2560 * 10240)


def test_blocks_given_are_taken_as_they_are() -> None:
    plan = plan_memory(ReplicaConfig(), SarathiSchedulerConfig(num_blocks=700, batch_size_cap=5), 4096)
    assert (plan.num_blocks, plan.max_batch_size, plan.block_size) == (700, 5, 16)


def test_vllm_v1_is_bounded_by_its_own_limit() -> None:
    plan = plan_memory(ReplicaConfig(), VllmV1SchedulerConfig(max_num_seqs=99, batch_size_cap=3), 4096)
    assert plan.max_batch_size == 99


def test_a_model_that_leaves_no_kv_cache() -> None:
    replica = ReplicaConfig(model_name="meta-llama/Llama-2-70b-hf")
    with pytest.raises(InputError) as caught:
        plan_memory(replica, SarathiSchedulerConfig(), 4096, "--fixed_request_length_generator_config_max_tokens")
    line = str(caught.value)
    for part in (
        "--replica_config_model_name meta-llama/Llama-2-70b-hf leaves no KV-cache",
        "--replica_config_device a100",
        "GiB are missing",
        "--replica_config_tensor_parallel_size",
        "--fixed_request_length_generator_config_max_tokens",
    ):
        assert part in line
    assert "\n" not in line


def test_the_group_without_kv_cache_is_named() -> None:
    config = SimulationConfig.from_cli(
        ["--cluster_config_replica_groups", "device=a100", "name=small,model_name=meta-llama/Llama-2-70b-hf"]
    )
    with pytest.raises(InputError, match=r"group 'small': .*leaves no KV-cache"):
        plan_groups(config)


def test_groups_are_planned_one_by_one() -> None:
    config = SimulationConfig.from_cli(["--cluster_config_replica_groups", "device=h200", "num_blocks=50"])
    big, small = plan_groups(config)
    assert big.num_blocks > small.num_blocks == 50


def test_a_block_longer_than_any_request() -> None:
    with pytest.raises(InputError, match="--orca_scheduler_config_block_size 64 is above the longest request"):
        plan_memory(ReplicaConfig(), OrcaSchedulerConfig(block_size=64), 32)
