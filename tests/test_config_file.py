"""The configuration from a file: YAML, or a run's config.json, under the flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidur.config import LORGlobalSchedulerConfig, SimulationConfig
from vidur.errors import InputError

EXAMPLE = """
seed: 7
cluster_config:
  num_replicas: 4
  global_scheduler_config: {type: lor, count: waiting}
  replica_config:
    device: h100
request_generator_config:
  interval_generator_config: {qps: 3}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str, name: str = "run.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# Each line is nine times the one before: 10**9 values from 500 characters.
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def error_of(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        SimulationConfig.from_cli(argv)
    line = str(caught.value)
    assert "\n" not in line
    return line


def qps_of(config: SimulationConfig) -> float:
    requests: Any = config.request_generator_config
    return float(requests.interval_generator_config.qps)


def test_a_nested_file(write: Any) -> None:
    config = SimulationConfig.from_cli(["--config", write(EXAMPLE)])
    assert (config.seed, config.cluster_config.num_replicas, qps_of(config)) == (7, 4, 3.0)
    assert config.cluster_config.global_scheduler_config == LORGlobalSchedulerConfig(count="waiting")
    assert config.cluster_config.replica_config.network_device == "h100_pairwise_nvlink"
    assert config == SimulationConfig.from_file(write(EXAMPLE))


def test_flags_go_before_the_file(write: Any) -> None:
    path = write(EXAMPLE)
    config = SimulationConfig.from_cli(["--seed", "9", "--config", path])
    assert (config.seed, config.cluster_config.num_replicas) == (9, 4)
    other = SimulationConfig.from_cli(["--config", path, "--seed", "42"])
    assert other.seed == 42


def test_flat_flag_names_stand_at_the_top(write: Any) -> None:
    config = SimulationConfig.from_cli(
        ["--config", write("poisson_request_interval_generator_config_qps: 3\nreplica_config_device: h200\n")]
    )
    assert qps_of(config) == 3.0
    assert config.cluster_config.replica_config.device == "h200"


def test_groups_and_events_in_their_short_form(write: Any) -> None:
    text = """
replica_groups:
  - {name: fast, num_replicas: 2, device: h100}
  - {num_replicas: 1, device: a100, tensor_parallel_size: 2}
replica_events:
  - {time: 30, replica: 2, action: slow, factor: 3}
"""
    cluster = SimulationConfig.from_cli(["--config", write(text)]).cluster_config
    assert [group.name for group in cluster.groups] == ["fast", "group1"]
    assert cluster.num_replicas == 3
    assert cluster.replica_events[0].factor == 3.0


def test_a_runs_config_json_is_a_file_too(write: Any) -> None:
    config = SimulationConfig.from_cli(
        ["--replica_scheduler_config_type", "vllm_v1", "--cluster_config_replica_groups", "name=a,num_replicas=2"]
    )
    path = write(json.dumps(config.to_dict()), "config.json")
    assert SimulationConfig.from_cli(["--config", path]) == config


def test_new_groups_go_before_the_files_count(write: Any) -> None:
    config = SimulationConfig.from_cli(["--cluster_config_replica_groups", "num_replicas=2", "num_replicas=2"])
    path = write(json.dumps(config.to_dict()), "config.json")
    again = SimulationConfig.from_cli(["--config", path, "--cluster_config_replica_groups", "num_replicas=6"])
    assert again.cluster_config.num_replicas == 6
    assert "contradicts" in error_of("--config", path, "--cluster_config_num_replicas", "6")


def test_a_new_device_lets_go_of_the_files_node(write: Any) -> None:
    path = write(json.dumps(SimulationConfig().to_dict()), "config.json")
    config = SimulationConfig.from_cli(["--config", path, "--replica_config_device", "h100"])
    assert config.cluster_config.replica_config.network_device == "h100_pairwise_nvlink"


def test_a_flags_type_says_what_an_untyped_section_configures(write: Any) -> None:
    path = write("cluster_config: {global_scheduler_config: {count: waiting}}")
    config = SimulationConfig.from_cli(["--config", path, "--global_scheduler_config_type", "lor"])
    assert config.cluster_config.global_scheduler_config == LORGlobalSchedulerConfig(count="waiting")


def test_a_type_may_stand_for_its_section(write: Any) -> None:
    config = SimulationConfig.from_file(write("cluster_config: {global_scheduler_config: lor}"))
    assert config.cluster_config.global_scheduler_config == LORGlobalSchedulerConfig()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "cluster_config:\n"])
def test_an_empty_file_gives_the_defaults(text: str, write: Any) -> None:
    assert SimulationConfig.from_file(write(text)) == SimulationConfig()


def test_what_yaml_reads_otherwise_is_mended(write: Any) -> None:
    text = """
request_generator_config:
  interval_generator_config: {type: trace, start_time: 1970-01-04 12:30:00, time_scale_factor: 1e-1}
"""
    requests: Any = SimulationConfig.from_file(write(text)).request_generator_config
    assert requests.interval_generator_config.start_time == "1970-01-04 12:30:00"
    assert requests.interval_generator_config.time_scale_factor == 0.1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sed: 3", ["unknown key in", "'sed'", "did you mean seed"]),
        ("cluster_config: {num_replica: 3}", ["'cluster_config.num_replica'", "cluster_config.num_replicas"]),
        ("cluster_config: {replica_config: {devise: a100}}", ["'cluster_config.replica_config.devise'"]),
        ("cluster_config: {global_scheduler_config: {type: rl}}", ["global_scheduler_config.type 'rl'", "lor"]),
        ("cluster_config: {global_scheduler_config: {type: 3}}", ["global_scheduler_config.type", "name of a type"]),
        ("cluster_config: {global_scheduler_config: {count: waiting}}", ["'cluster_config.global_scheduler_config.c"]),
        ("cluster_config: {num_replicas: four}", ["cluster_config.num_replicas", "an integer, not 'four'"]),
        ("cluster_config: {num_replicas: 4.5}", ["cluster_config.num_replicas", "an integer"]),
        ("cluster_config: {num_replicas: true}", ["cluster_config.num_replicas", "an integer"]),
        ("cluster_config: {num_replicas: null}", ["cluster_config.num_replicas", "an integer"]),
        ("cluster_config: [1]", ["cluster_config", "expected a mapping"]),
        ("metrics_config: {write_metrics: 1}", ["metrics_config.write_metrics", "true or false"]),
        ("metrics_config: {output_dir: 1}", ["metrics_config.output_dir", "expected text"]),
        ("poisson_request_interval_generator_config_qps: .nan", ["qps", "finite"]),
        ("poisson_request_interval_generator_config_qp: 1", ["unknown key"]),
        ("replica_scheduler_config_type: 1", ["replica_scheduler_config_type", "name of a type"]),
        ("replica_groups: 3", ["replica_groups", "a list, each ReplicaGroupConfig"]),
        ("replica_groups: [3]", ["replica_groups[0]", "expected keys and values"]),
        ("replica_groups: [{devise: h100}]", ["replica_groups[0]", "'devise'", "device"]),
        ("replica_groups: [{device: 100}]", ["replica_groups[0]: device", "expected text"]),
        ("replica_events: [{time: 1, replica: 0}]", ["replica_events[0]", "action is missing"]),
        ("seed: 1\nseed: 2", ["line 2", "seed is given twice"]),
        ("seed_: 1\n  x: 2", ["line 2", "not YAML"]),
        ("- 1", ["expected a mapping of settings"]),
        ("3: 4", ["unknown key", "'3'"]),
        ("cluster_config: {num_replicas: 2}\ncluster_config_num_replicas: 3", ["given twice"]),
        ("a: &a [*a]", ["line 1", "an alias that repeats itself"]),
        ("? [a]\n: 1", ["line 1", "a key is text"]),
        ("? {a: 1}\n: 1", ["line 1", "a key is text"]),
        ("[" * 100_000, ["line 1", "nested more than 64 deep"]),
        ("- " * 100_000, ["line 1", "nested more than 64 deep"]),
        ("{a: " * 100_000, ["line 1", "nested more than 64 deep"]),
        (LAUGHS, ["line 7", "more than 1,000,000 values"]),
        ("seed: " + "9" * 5000, ["not YAML"]),
    ],
)
def test_a_mistake_gets_one_line_with_file_and_key(text: str, parts: list[str], write: Any) -> None:
    line = error_of("--config", write(text))
    assert "run.yaml" in line
    for part in parts:
        assert part in line


def test_aliases_that_repeat_a_little_are_read(write: Any) -> None:
    text = "cluster_config:\n  replica_groups: [&a {num_replicas: 2}, *a, {<<: *a, device: h100}]\n"
    groups = SimulationConfig.from_file(write(text)).cluster_config.replica_groups
    assert [(group.num_replicas, group.device) for group in groups] == [(2, None), (2, None), (2, "h100")]


def test_whole_numbers_may_be_written_with_an_exponent(write: Any) -> None:
    requests: Any = SimulationConfig.from_file(
        write("request_generator_config: {num_requests: 1e3}")
    ).request_generator_config
    flag = "--synthetic_request_generator_config_num_requests"
    by_flag: Any = SimulationConfig.from_cli([flag, "1e3"]).request_generator_config
    assert requests.num_requests == by_flag.num_requests == 1000
    for text in ("1.5e0", "1e-1", "1e30", "nan", "inf"):
        assert flag in error_of(flag, text)


def test_deep_json_is_one_line(write: Any) -> None:
    assert "nested too deeply" in error_of("--config", write("[" * 100_000, "deep.json"))


def test_limits_beyond_a_file_name_the_flag(write: Any) -> None:
    line = error_of("--config", write("cluster_config: {num_replicas: 0}"))
    assert "--cluster_config_num_replicas must be at least 1" in line


def test_a_missing_file(tmp_path: Path) -> None:
    assert "--config" in error_of("--config", str(tmp_path / "none.yaml"))
    assert "directory" in error_of("--config", str(tmp_path))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in error_of("--config", str(path))


def test_json_is_refused_with_its_line(write: Any) -> None:
    line = error_of("--config", write('{"seed": 3,\n}', "config.json"))
    assert "config.json, line" in line
    assert "not JSON" in line


def test_yaml_with_control_characters(write: Any) -> None:
    assert "not YAML" in error_of("--config", write("seed: \x07"))
