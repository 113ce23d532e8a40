"""Scenarios, and the capacity that their loads are parts of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scenarios import write_scenario

from vidur.compare.capacity import Capacities, measure_capacity
from vidur.compare.executor import ProcessExecutor
from vidur.compare.scenario import Scenario, scenario_names
from vidur.config import FixedRequestLengthGeneratorConfig, LeastTokensGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.request_generator import generate_requests
from vidur.simulator import simulate

LEAST_TOKENS = LeastTokensGlobalSchedulerConfig()


@pytest.mark.parametrize("name", scenario_names())
def test_shipped_scenarios_can_be_simulated(name: str) -> None:
    scenario = Scenario.read(name)
    # Not at its load: that would measure the capacity.
    scenario = dataclasses.replace(scenario, qps=2.0 * scenario.num_replicas)
    recording = simulate(scenario.configure(4, 100, LEAST_TOKENS)).recording
    assert (recording.requests["status"] == 1).all()
    assert len(recording.requests["status"]) == 100 * max(1, scenario.num_replicas / 4)


def test_a_cluster_keeps_up_with_its_capacity() -> None:
    # Outstanding requests stay as they are below the capacity and grow by the excess above it.
    scenario = Scenario.read("a93")

    def growth(load: float) -> float:
        requests = simulate(scenario.at_load(load).configure(4, 12_000, LEAST_TOKENS)).recording.requests
        begin, end = requests["arrived_at"][[4000, -1]]
        ends = requests["completed_at"]
        return 1.0 - np.count_nonzero((ends > begin) & (ends <= end)) / 8000

    assert abs(growth(0.9)) < 0.02
    assert growth(1.1) == pytest.approx(1.0 - 1.0 / 1.1, abs=0.03)


def test_capacity_of_equal_requests_has_a_closed_form(tmp_path: Path) -> None:
    # A prompt of 512 tokens and one output token: each request is one iteration of Sarathi's chunk by itself.
    scenario = Scenario.read(str(write_scenario(tmp_path / "small.yaml", "[{num_replicas: 1}]")))
    workload = dataclasses.replace(
        scenario.config.request_generator_config,
        length_generator_config=FixedRequestLengthGeneratorConfig(prefill_tokens=512, decode_tokens=1),
    )
    config = dataclasses.replace(scenario.config, request_generator_config=workload)
    alone = dataclasses.replace(scenario, config=config, qps=1.0).configure(0, 40, LEAST_TOKENS)
    batches = simulate(dataclasses.replace(alone, metrics_config=config.metrics_config)).batches
    assert len(batches) == 40
    # Growth of 1 % passes for keeping up, and the bisection ends within 0.5 %.
    assert 1.0 <= measure_capacity(config) * batches["batch_execution_time"].mean() <= 1.0101


def test_capacities_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDUR_CACHE_DIR", str(tmp_path / "cache"))
    small, large = (
        Scenario.read(str(write_scenario(tmp_path / f"{name}.yaml", f"[{{num_replicas: {count}}}]")))
        for name, count in (("one", 1), ("two", 2))
    )
    counts: list[int] = []
    with ProcessExecutor(1) as executor:
        # Loads, seeds, routers and events do not matter.
        loaded = dataclasses.replace(small, qps=1.0).configure(7, 50, LEAST_TOKENS)
        configs = {"small": small.config, "loaded": loaded, "large": large.config}
        Capacities().measure(configs, executor, counts.append)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "capacity").iterdir()}
    assert sorted(counts) == [0, 1, 2]
    assert len(files) == 2
    capacity = small.capacity
    assert large.capacity == pytest.approx(2.0 * capacity, rel=0.05)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    # A torn file is measured again.
    for file in files:
        file.write_text("{")
    assert Capacities().of(small.config) == capacity


def test_a_cluster_that_holds_no_request_has_no_capacity(tmp_path: Path) -> None:
    text = write_scenario(tmp_path / "small.yaml").read_text()
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(text.replace("cluster_config:\n", "cluster_config:\n  replica_scheduler_config: {num_blocks: 1}\n"))
    with pytest.raises(InputError, match="no replica of the cluster holds requests of these lengths"):
        measure_capacity(Scenario.read(str(tiny)).config)
    with pytest.raises(InputError, match="tiny: the capacity cannot be measured"), ProcessExecutor(1) as executor:
        Capacities().measure({"tiny": Scenario.read(str(tiny)).config}, executor, lambda count: None)


@pytest.mark.parametrize("name", ["a93", "c72"])
def test_requests_arrive_at_the_load(name: str) -> None:
    scenario = Scenario.read(name)
    arrived_at = generate_requests(scenario.configure(7, 100_000).request_generator_config).arrived_at
    assert len(arrived_at) / arrived_at[-1] == pytest.approx(scenario.header.load * scenario.capacity, rel=0.02)


def test_events_are_at_parts_of_the_arrivals() -> None:
    config = Scenario.read("slow_third").configure(5, 300)
    end = generate_requests(config.request_generator_config).arrived_at[-1]
    events = config.cluster_config.replica_events
    assert [(event.action, event.replica, event.factor) for event in events] == [("slow", 1, 3.0), ("slow", 1, 1.0)]
    assert [event.time / end for event in events] == pytest.approx([1 / 3, 2 / 3], abs=1e-3)


def test_tight_memory_preempts() -> None:
    recording = simulate(Scenario.read("tight_kv").configure(4, 1500, LEAST_TOKENS)).recording
    assert recording.replicas["num_preemptions"].sum() > 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster_config: {num_replicas: 2}\n", "the key scenario is missing"),
        ("scenario: {title: x}\n", "load is missing"),
        ("scenario: {title: x, load: high}\n", "scenario: load: expected a number"),
        ("scenario: {title: x, load: 0.9, laod: 1}\n", "'laod': did you mean load"),
        (
            "scenario: {title: x, load: 0.9}\ncluster_config: {num_replica: 2}\n",
            "did you mean cluster_config.num_replicas",
        ),
        ("scenario: {title: x, load: 0.9}\nrequest_generator_config: trace_replay\n", "needs generated requests"),
        ("scenario: {title: x, load: 0.9, events: [{at: 2, replica: 0, action: slow}]}\n", "at"),
        ("- 1\n", "the key scenario is missing"),
        ("a: [\n", "not YAML"),
    ],
)
def test_bad_scenario_files(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Scenario.read(str(file))
    assert "\n" not in str(error.value)


# Other loads and other numbers of replicas.


def test_groups_grow_in_proportion() -> None:
    scenario = Scenario.read("b88")
    groups = scenario.scaled(8).config.cluster_config.replica_groups
    assert [(group.num_replicas, group.speed) for group in groups] == [(4, None), (4, 0.5)]
    assert scenario.scaled(8).num_requests(3000) == 6000
    with pytest.raises(InputError, match="--replicas 3: scenario b88 has groups of 2 and 2 replicas"):
        scenario.scaled(3)
    with pytest.raises(InputError, match="an event is on replica 1; the 1 are numbered from 0"):
        Scenario.read("slow_third").scaled(1)
    assert Scenario.read("a93").scaled(64).num_replicas == 64


def test_a_load_and_a_rate_are_one_thing() -> None:
    scenario = Scenario.read("a93").at_load(0.5)
    assert scenario.rate == 0.5 * scenario.capacity
    assert dataclasses.replace(scenario, qps=scenario.capacity / 4).load == pytest.approx(0.25)
