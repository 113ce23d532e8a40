"""The dataclasses: limits, contradictions, groups and events, round trips."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import (
    ClusterConfig,
    FixedRequestLengthGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    ReplicaConfig,
    ReplicaGroupConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    SyntheticRequestGeneratorConfig,
    TraceRequestGeneratorConfig,
    TraceRequestIntervalGeneratorConfig,
)
from vidur.config.base import Config, PolyConfig, Setting, settings_of, snake_case
from vidur.config.flag import Flag, all_flags
from vidur.errors import InputError


def error_of(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        SimulationConfig.from_cli(argv)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("LORGlobalSchedulerConfig", "lor_global_scheduler_config"),
        ("VllmV1SchedulerConfig", "vllm_v1_scheduler_config"),
        ("RandomForrestExecutionTimePredictorConfig", "random_forrest_execution_time_predictor_config"),
    ],
)
def test_snake_case(name: str, flag: str) -> None:
    assert snake_case(name) == flag


LIMITS = [
    ("--cluster_config_num_replicas 0", ["--cluster_config_num_replicas must be at least 1"]),
    ("--seed -1", ["--seed must be at least 0"]),
    ("--time_limit -1", ["--time_limit must be at least 0"]),
    ("--replica_config_tensor_parallel_size 3", ["tensor_parallel_size 3", "32 attention heads", "1, 2, 4, 8"]),
    ("--replica_config_tensor_parallel_size 0", ["--replica_config_tensor_parallel_size must be at least 1"]),
    ("--replica_config_num_pipeline_stages 3", ["num_pipeline_stages 3", "32 layers"]),
    ("--replica_config_memory_margin_fraction 1", ["memory_margin_fraction must be below 1"]),
    ("--replica_config_memory_margin_fraction -0.1", ["memory_margin_fraction must be at least 0"]),
    ("--replica_config_network_device a100_dg", ["--replica_config_network_device 'a100_dg'", "a100_dgx"]),
    ("--replica_config_network_device h100_dgx", ["h100_dgx is a node of h100", "--replica_config_device a100"]),
    ("--replica_config_device h100 --replica_config_network_device a100_pairwise_nvlink", ["node of a100", "h100"]),
    ("--sarathi_scheduler_config_chunk_size 0", ["--sarathi_scheduler_config_chunk_size must be at least 1"]),
    ("--sarathi_scheduler_config_watermark_blocks_fraction inf", ["watermark_blocks_fraction", "finite"]),
    ("--sarathi_scheduler_config_num_blocks 0", ["--sarathi_scheduler_config_num_blocks must be at least 1"]),
    ("--sarathi_scheduler_config_batch_size_cap 1 --replica_config_num_pipeline_stages 2", ["batch_size_cap 1"]),
    ("--replica_scheduler_config_type lightllm", ["--lightllm_scheduler_config_block_size must be 1, not 16"]),
    (
        "--replica_scheduler_config_type lightllm --lightllm_scheduler_config_block_size 1 "
        "--replica_config_num_pipeline_stages 2",
        ["lightllm needs --replica_config_num_pipeline_stages 1"],
    ),
    (
        "--replica_scheduler_config_type vllm_v1 --vllm_v1_scheduler_config_max_num_batched_tokens 8",
        ["max_num_batched_tokens 8 is below", "max_num_seqs 256"],
    ),
    ("--poisson_request_interval_generator_config_qps 0", ["qps must be above 0"]),
    ("--interval_generator_config_type gamma --gamma_request_interval_generator_config_cv 0", ["cv must be above 0"]),
    (
        "--length_generator_config_type uniform --uniform_request_length_generator_config_min_tokens 5000",
        ["min_tokens 5000 is above", "max_tokens 4096"],
    ),
    ("--length_generator_config_type zipf --zipf_request_length_generator_config_theta 1", ["theta must not be 1"]),
    ("--fixed_request_length_generator_config_prefill_tokens 0", ["prefill_tokens must be at least 1"]),
    ("--synthetic_request_generator_config_num_requests 0", ["num_requests must be at least 1"]),
    ("--synthetic_request_generator_config_duration 0", ["duration must be above 0"]),
    (
        "--synthetic_request_generator_config_duration 9 --interval_generator_config_type static",
        ["--synthetic_request_generator_config_duration", "static"],
    ),
    ("--execution_time_predictor_config_type tables", ["--tables_execution_time_predictor_config_file is missing"]),
    ("--metrics_config_wandb_project p", ["--metrics_config_wandb_project", "without --metrics_config_wandb_group"]),
    ("--metrics_config_wandb_run_id p", ["--metrics_config_wandb_run_id", "a project and a group"]),
    ("--metrics_config_save_table_to_wandb", ["--metrics_config_save_table_to_wandb", "--metrics_config_wandb_p"]),
    ("--metrics_config_min_batch_index 9 --metrics_config_max_batch_index 3", ["min_batch_index 9 is above"]),
    ("--cluster_config_gauge_refresh_interval -1", ["gauge_refresh_interval must be at least 0"]),
    (
        "--global_scheduler_config_type size_split --size_split_global_scheduler_config_thresholds 9 3",
        ["thresholds must ascend"],
    ),
    ("--lor_global_scheduler_config_count all --global_scheduler_config_type lor", ["config_count 'all'", "waiting"]),
    ("--request_generator_config_type trace_replay --trace_request_generator_config_trace_format csv", ["'csv'"]),
    (
        "--execution_time_predictor_config_type random_forest "
        "--random_forrest_execution_time_predictor_config_num_training_job_threads 0",
        ["num_training_job_threads must be -1"],
    ),
]


@pytest.mark.parametrize(("argv", "parts"), LIMITS, ids=[" ".join(argv.split()[:2]) for argv, _ in LIMITS])
def test_what_cannot_be_is_refused_in_one_line(argv: str, parts: list[str]) -> None:
    line = error_of(*argv.split())
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: SimulationConfig(seed="7"), "--seed: expected an integer"),  # type: ignore[arg-type]
        (lambda: SimulationConfig(seed=10**20), "--seed: 100000000... does not fit in 64 bits"),
        (lambda: GammaRequestIntervalGeneratorConfig(qps=10**400), "does not fit in 64 bits"),
        (lambda: SimulationConfig(seed=True), "--seed: expected an integer"),
        (lambda: SimulationConfig(metrics_config=None), "metrics_config: expected MetricsConfig"),  # type: ignore[arg-type]
        (lambda: GammaRequestIntervalGeneratorConfig(qps=float("nan")), "expected a finite number"),
        (lambda: ReplicaConfig(device="h10"), "unknown --replica_config_device 'h10'"),
        (lambda: ReplicaConfig(device="h100", network_device="a100_dgx"), "a100_dgx is a node of a100"),
        (lambda: SyntheticRequestGeneratorConfig(num_requests=None), "num_requests or"),
    ],
)
def test_the_classes_check_themselves(make: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        make()


def test_numbers_and_lists_are_conformed() -> None:
    scheduler = GammaRequestIntervalGeneratorConfig(qps=2)
    assert isinstance(scheduler.qps, float)
    groups: Any = [ReplicaGroupConfig(num_replicas=2)]
    assert ClusterConfig(replica_groups=groups).replica_groups == tuple(groups)


def test_a_trace_of_intervals_needs_no_count() -> None:
    SyntheticRequestGeneratorConfig(num_requests=None, interval_generator_config=TraceRequestIntervalGeneratorConfig())


def test_the_longest_request_and_its_flag() -> None:
    synthetic = SyntheticRequestGeneratorConfig(length_generator_config=FixedRequestLengthGeneratorConfig(max_tokens=9))
    assert (synthetic.max_tokens, synthetic.max_tokens_flag) == (
        9,
        "--fixed_request_length_generator_config_max_tokens",
    )
    trace = TraceRequestGeneratorConfig(max_tokens=7)
    assert (trace.max_tokens, trace.max_tokens_flag) == (7, "--trace_request_generator_config_max_tokens")


def test_configurations_are_values() -> None:
    assert SimulationConfig() == SimulationConfig()
    assert hash(SimulationConfig()) == hash(SimulationConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        SimulationConfig().seed = 3  # type: ignore[misc]


def test_a_type_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        type("Another", (SarathiSchedulerConfig,), {"type_name": "sarathi"})


@pytest.mark.parametrize(
    ("argv", "device", "node"),
    [
        ("", "a100", "a100_pairwise_nvlink"),
        ("--replica_config_device h100", "h100", "h100_pairwise_nvlink"),
        ("--replica_config_device l40s", "l40s", "l40s_pcie"),
        ("--replica_config_device h100 --replica_config_network_device h100_dgx", "h100", "h100_dgx"),
    ],
)
def test_the_node_follows_the_device(argv: str, device: str, node: str) -> None:
    replica = SimulationConfig.from_cli(argv.split()).cluster_config.replica_config
    assert (replica.device_sku.name, replica.node_sku.name) == (device, node)


def test_world_size_and_layers_per_stage() -> None:
    replica = ReplicaConfig(tensor_parallel_size=2, num_pipeline_stages=4)
    assert (replica.world_size, replica.layers_per_stage) == (8, 8)


def values_of(item: Setting) -> st.SearchStrategy[Any]:
    limits = item.metadata
    if "choices" in limits:
        return st.sampled_from(limits["choices"])
    if item.type is bool:
        return st.booleans()
    if item.type is str:
        # argparse drops the text --, even after an equals sign, and takes an element of a list for a flag if it begins
        # with a dash.
        text = st.text("ab1/. {}:_-=%'é", min_size=1, max_size=9)
        return text.filter(lambda text: not text.startswith("-") if item.many else text != "--")
    low, high = limits.get("minimum", limits.get("above")), limits.get("maximum", limits.get("below"))
    low = -100 if low is None else low
    if item.type is int:
        return st.integers(min_value=low, max_value=10**6)
    return st.floats(
        min_value=low,
        max_value=1e6 if high is None else high,
        exclude_min="above" in limits,
        exclude_max="below" in limits,
        allow_subnormal=False,
    )


def is_free(flag: Flag, kinds: dict[str, str]) -> bool:
    """Whether the flag belongs to a chosen type, and its every value stands by itself."""
    if flag.family is not None or flag.item.is_records or "wandb" in flag.name or flag.owner is ReplicaConfig:
        return False
    return not issubclass(flag.owner, PolyConfig) or kinds[flag.owner.type_flag] == flag.owner.type_name


@st.composite
def flag_values(draw: st.DrawFn) -> dict[str, Any]:
    """Types and settings of those types, by flag name: the flat keys of a file."""
    families = {flag.name: flag.family for flag in all_flags().values() if flag.family is not None}
    kinds = {
        name: draw(st.sampled_from(sorted(family.family.keys() - {"custom"}))) for name, family in families.items()
    }
    values: dict[str, Any] = dict(kinds)
    names = [name for name, flag in all_flags().items() if is_free(flag, kinds)]
    for name in draw(st.lists(st.sampled_from(names), max_size=20, unique=True)):
        item = all_flags()[name].item
        values[name] = draw(st.lists(values_of(item), min_size=1, max_size=3) if item.many else values_of(item))
    return values


@given(flag_values())
def test_a_dictionary_round_trip_gives_the_same_configuration(values: dict[str, Any]) -> None:
    try:
        config = SimulationConfig.from_dict(values)
    except InputError as error:
        assert "\n" not in str(error)
        return
    document = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert SimulationConfig.from_dict(document) == config
    assert SimulationConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@given(flag_values())
def test_flags_and_files_give_the_same_configuration(values: dict[str, Any]) -> None:
    argv = []
    for name, value in values.items():
        if isinstance(value, bool):
            argv.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            argv += [f"--{name}", *map(str, value)]
        else:
            argv.append(f"--{name}={value}")
    assert outcome(SimulationConfig.from_cli, argv) == outcome(SimulationConfig.from_dict, values)


def outcome(make: Any, source: Any) -> Any:
    try:
        return make(source)
    except InputError:
        return "refused"


def test_to_dict_is_nested_and_names_types() -> None:
    document = SimulationConfig.from_cli(["--global_scheduler_config_type", "lor"]).to_dict()
    assert document["cluster_config"]["global_scheduler_config"] == {"type": "lor", "count": "outstanding"}
    assert document["request_generator_config"]["interval_generator_config"]["type"] == "poisson"
    assert list(document) == [item.name for item in settings_of(SimulationConfig)]


def test_every_setting_says_what_it_is() -> None:
    for flag in all_flags().values():
        assert flag.item.help
        assert issubclass(flag.owner, Config)
        assert not issubclass(flag.owner, PolyConfig) or flag.owner.description
