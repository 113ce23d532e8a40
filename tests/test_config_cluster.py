"""Groups of replicas and timed events."""

from __future__ import annotations

import json

import pytest

from vidur.config import (
    ClusterConfig,
    ReplicaConfig,
    ReplicaEventConfig,
    ReplicaGroupConfig,
    SarathiSchedulerConfig,
    SimulationConfig,
    VllmV1SchedulerConfig,
)
from vidur.errors import InputError


def error_of(*argv: str) -> str:
    with pytest.raises(InputError) as caught:
        SimulationConfig.from_cli(argv)
    line = str(caught.value)
    assert "\n" not in line
    return line


def groups_of(*tokens: str, also: str = "") -> ClusterConfig:
    return SimulationConfig.from_cli([*also.split(), "--cluster_config_replica_groups", *tokens]).cluster_config


def test_without_groups_there_is_one() -> None:
    (group,) = SimulationConfig.from_cli(["--cluster_config_num_replicas", "3"]).cluster_config.groups
    assert group.num_replicas == 3
    assert group.replica_config == ReplicaConfig()


def test_groups_fill_in_what_they_leave_out() -> None:
    cluster = groups_of(
        "name=fast,num_replicas=2,device=h100",
        "num_replicas=3,device=a100,tensor_parallel_size=2,chunk_size=256,num_blocks=900",
        also="--sarathi_scheduler_config_batch_size_cap 64",
    )
    fast, slow = cluster.groups
    assert cluster.num_replicas == 5
    assert (fast.name, fast.num_replicas, fast.replica_config.network_device) == ("fast", 2, "h100_pairwise_nvlink")
    assert (slow.name, slow.replica_config.tensor_parallel_size) == ("group1", 2)
    assert slow.replica_scheduler_config == SarathiSchedulerConfig(batch_size_cap=64, chunk_size=256, num_blocks=900)
    assert fast.replica_scheduler_config == SarathiSchedulerConfig(batch_size_cap=64)


def test_a_group_of_the_clusters_device_keeps_its_node() -> None:
    cluster = groups_of("device=h100", also="--replica_config_device h100 --replica_config_network_device h100_dgx")
    assert cluster.groups[0].replica_config.network_device == "h100_dgx"


def test_groups_of_vllm_v1() -> None:
    cluster = groups_of("max_num_seqs=64,max_num_batched_tokens=2048", also="--replica_scheduler_config_type vllm_v1")
    expected = VllmV1SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=2048)
    assert cluster.groups[0].replica_scheduler_config == expected


@pytest.mark.parametrize(
    ("tokens", "also", "parts"),
    [
        ("num_replicas=2 num_replicas=1", "--cluster_config_num_replicas 4", ["num_replicas 4 contradicts", "to 3"]),
        ("num_replicas=2 num_replicas=1", "--cluster_config_num_replicas 1", ["num_replicas 1 contradicts", "to 3"]),
        ("num_replicas=0", "", ["replica_groups: num_replicas must be at least 1"]),
        ("num_replicas=two", "", ["replica_groups: num_replicas: expected an integer, not 'two'"]),
        ("name=a name=a", "", ["the name 'a' is given twice"]),
        ("name=group1 num_replicas=1", "", ["the name 'group1' is given twice"]),
        ("devise=h100", "", ["replica_groups key 'devise'", "did you mean device"]),
        ("h100", "", ["expected key=value"]),
        ("device=h100,device=a100", "", ["device is given twice"]),
        ("name=x,device=h10", "", ["'h10'", "h100"]),
        ("name=x,device=h100,network_device=a100_pairwise_nvlink", "", ["group 'x'", "node of a100"]),
        ("name=x,network_device=a100_pairwise_nvlink", "--replica_config_device h100", ["group 'x'", "node of a100"]),
        ("name=x,tensor_parallel_size=3", "", ["group 'x'", "tensor_parallel_size 3", "32 attention heads"]),
        ("name=x,chunk_size=0", "", ["group 'x'", "chunk_size must be at least 1"]),
        ("name=x,max_num_seqs=3", "", ["group 'x'", "max_num_seqs is not a setting of", "sarathi"]),
        ("name=x,batch_size_cap=1,num_pipeline_stages=2", "", ["group 'x'", "batch_size_cap 1"]),
    ],
)
def test_bad_groups(tokens: str, also: str, parts: list[str]) -> None:
    line = error_of(*also.split(), "--cluster_config_replica_groups", *tokens.split())
    assert "--cluster_config_replica_groups" in line
    for part in parts:
        assert part in line


def test_a_count_that_agrees_with_the_groups_is_accepted() -> None:
    assert groups_of("num_replicas=3", also="--cluster_config_num_replicas 3").num_replicas == 3


def test_the_constructor_refuses_a_contradicting_count() -> None:
    with pytest.raises(InputError, match="contradicts"):
        ClusterConfig(num_replicas=5, replica_groups=(ReplicaGroupConfig(num_replicas=2),))


def test_events() -> None:
    config = SimulationConfig.from_cli(
        [
            *("--cluster_config_num_replicas", "2", "--cluster_config_replica_events"),
            *("time=30,replica=1,action=slow,factor=3", "time=60.5,replica=0,action=fail"),
        ]
    )
    assert config.cluster_config.replica_events == (
        ReplicaEventConfig(time=30.0, replica=1, action="slow", factor=3.0),
        ReplicaEventConfig(time=60.5, replica=0, action="fail"),
    )


@pytest.mark.parametrize(
    ("token", "part"),
    [
        ("time=3,replica=2,action=fail", "there is no replica 2"),
        ("time=3,replica=-1,action=fail", "replica must be at least 0"),
        ("time=-3,replica=1,action=fail", "time must be at least 0"),
        ("time=nan,replica=1,action=fail", "expected a finite number"),
        ("time=3,replica=1,action=fall", "did you mean fail"),
        ("time=3,replica=1,action=slow,factor=0", "factor must be above 0"),
        ("time=3,replica=1,action=fail,factor=2", "factor belongs to the action slow"),
        ("time=3,action=fail", "replica is missing"),
        ("time=3,replica=1,action=fail,x=1", "key 'x'"),
    ],
)
def test_bad_events(token: str, part: str) -> None:
    line = error_of("--cluster_config_num_replicas", "2", "--cluster_config_replica_events", token)
    assert "--cluster_config_replica_events" in line
    assert part in line


def test_groups_and_events_round_trip() -> None:
    config = SimulationConfig.from_cli(
        [
            *("--cluster_config_replica_groups", "name=fast,num_replicas=2,device=h100", "device=a40"),
            *("--cluster_config_replica_events", "time=1,replica=2,action=drain"),
        ]
    )
    document = json.loads(json.dumps(config.to_dict()))
    assert document["cluster_config"]["replica_groups"][1] == {"num_replicas": 1, "device": "a40"}
    assert SimulationConfig.from_dict(document) == config
