"""Routers: what they choose, that compiled and plain choose alike, and how old what they see is."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from vidur.config import SimulationConfig
from vidur.engine.recording import FINISHED
from vidur.errors import InputError
from vidur.observation import GAUGE_AGE, GAUGE_KV_USAGE, GAUGE_RUNNING, GAUGE_WAITING, OUTSTANDING
from vidur.scheduler.routers import GLOBAL_SCHEDULERS, KernelScheduler
from vidur.simulator import Simulator, simulate

MIXED = """
    --cluster_config_replica_groups num_replicas=2,device=h100 num_replicas=2,device=a100,num_blocks=600
    --length_generator_config_type quantile --synthetic_request_generator_config_num_requests 400
    --poisson_request_interval_generator_config_qps 30
"""


def config(router: str, more: str = "") -> SimulationConfig:
    return SimulationConfig.from_cli(f"{MIXED} --global_scheduler_config_type {router} {more}".split())


@pytest.mark.parametrize("router", GLOBAL_SCHEDULERS.names())
def test_compiled_and_plain_choose_alike(router: str) -> None:
    events = "--cluster_config_replica_events time=3,replica=0,action=drain time=6,replica=0,action=return"
    whole = simulate(config(router, events)).recording
    stepped = Simulator(config(router, events))
    scheduler = stepped.router
    assert isinstance(scheduler, KernelScheduler)
    scheduler.memory = scheduler.memory.copy()
    # The compiled loop draws for all requests at once, in the order of arrival.
    draws = iter(stepped.simulation.engine.books.draws)
    scheduler.draw = lambda count: next(draws)[None, :]  # type: ignore[method-assign]
    while (observation := stepped.next_decision()) is not None:
        stepped.place(scheduler.schedule(observation))
    for name, column in whole.requests.items():
        assert np.array_equal(column, stepped.result().recording.requests[name], equal_nan=True), name


def test_lor_spreads_over_an_idle_cluster() -> None:
    """Running requests count: requests far apart in time still take turns, and none piles up on replica 0."""
    flags = "--cluster_config_num_replicas 4 --global_scheduler_config_type lor"
    flags += " --synthetic_request_generator_config_num_requests 400"
    placed = simulate(SimulationConfig.from_cli(flags.split())).recording.requests["replica"]
    assert np.bincount(placed, minlength=4).min() > 80


def test_weighted_round_robin_follows_speed() -> None:
    simulator = Simulator(config("weighted_round_robin"))
    simulator.run()
    placed = np.bincount(simulator.result().recording.requests["replica"], minlength=4)
    speeds = np.array([plan.speed for plan in simulator.replica_plans])
    assert np.abs(placed - 400 * speeds / speeds.sum()).max() <= 2


@pytest.mark.parametrize("interval", [0.0, 0.5, 2.0])
def test_gauges_are_as_stale_as_configured(interval: float) -> None:
    simulator = Simulator(config("round_robin", f"--cluster_config_gauge_refresh_interval {interval}"))
    seen: dict[float, np.ndarray] = {}
    number = 0
    while (observation := simulator.next_decision()) is not None:
        age = observation.gauges[:, GAUGE_AGE]
        assert (age >= 0).all() and (age <= interval).all()
        sampled = round(observation.now - age[0], 9)
        gauges = observation.gauges[:, :GAUGE_AGE].copy()
        if interval > 0:
            assert np.array_equal(seen.setdefault(sampled, gauges), gauges)
        else:
            total = gauges[:, GAUGE_RUNNING] + gauges[:, GAUGE_WAITING]
            assert np.array_equal(total, observation.ledger[:, OUTSTANDING])
        simulator.place(number % 4)
        number += 1
    assert number == 400


def test_staler_gauges_change_what_least_kv_cache_chooses() -> None:
    """Between two refreshes it knows nothing of what it placed, so a refresh sends all to one replica."""
    placed = {}
    for interval in (0.0, 0.1, 1.0, 5.0):
        more = f"--cluster_config_gauge_refresh_interval {interval}"
        simulator = Simulator(config("least_kv_cache", more))
        placed[interval] = simulator.run().recording.requests["replica"]
        stepped = Simulator(config("least_kv_cache", more))
        seen = set()
        while (observation := stepped.next_decision()) is not None:
            usage = observation.gauges[:, GAUGE_KV_USAGE]
            choice = stepped.router.schedule(observation)
            assert usage[choice] == usage.min()
            seen.add(tuple(usage))
            stepped.place(choice)
        duration = simulator.requests.arrived_at[-1]
        if interval:
            assert len(seen) <= duration / interval + 2
        else:
            assert len(seen) > 300
    intervals = list(placed)
    changed = {(a, b): (placed[a] != placed[b]).mean() for a in intervals for b in intervals if a < b}
    assert min(changed.values()) > 0.2
    # Whole intervals go to the one that was least used at their beginning.
    longest = {interval: max(len(list(same)) for _, same in groupby(its)) for interval, its in placed.items()}
    assert longest[0.0] < longest[1.0] < longest[5.0]
    assert longest[5.0] > 100


EVENTFUL = """
cluster_config:
  num_replicas: 4
  num_routers: {routers}
  gauge_refresh_interval: 0.1
  global_scheduler_config: {{type: least_tokens}}
  replica_config: {{model_name: meta-llama/Meta-Llama-3-8B}}
  replica_events:
    - {{time: 10, replica: 3, action: slow, factor: 3}}
    - {{time: 15, replica: 1, action: fail}}
    - {{time: 20, replica: 1, action: return}}
    - {{time: 25, replica: 3, action: slow, factor: 1}}
request_generator_config:
  type: synthetic
  num_requests: 800
  length_generator_config: {{type: quantile}}
  interval_generator_config: {{type: poisson, qps: 22}}
metrics_config: {{write_metrics: true}}
"""


@pytest.mark.parametrize("routers", [1, 4])
def test_a_slow_and_a_failed_replica_from_a_file(routers: int, tmp_path: Path) -> None:
    file = tmp_path / "eventful.yaml"
    file.write_text(EVENTFUL.format(routers=routers))
    result = simulate(SimulationConfig.from_file(str(file)))
    requests, batches = result.recording.requests, result.recording.batches
    retried = requests["num_reroutes"] > 0
    assert retried.sum() > 5 and (requests["status"] == FINISHED).all() and not result.recording.partial
    assert (requests["arrived_at"][retried] < 15).all() and (requests["prefill_completed_at"][retried] > 15).all()
    # Nothing runs on the failed replica while it is away, and it serves again after that.
    began = batches["start"][batches["replica"] == 1]
    assert not ((began > 15) & (began < 20)).any() and (began > 20).any()
    # The slow one gives a token a third as often, and so gets less.
    pace = batches["iteration_time"] / batches["batch_size"].clip(1)
    during = (batches["start"] > 10) & (batches["start"] < 25)
    of_three, others = during & (batches["replica"] == 3), during & (batches["replica"] == 0)
    assert pace[of_three].mean() > 2 * pace[others].mean()
    arrived = (requests["arrived_at"] > 12) & (requests["arrived_at"] < 25)
    assert np.bincount(requests["replica"][arrived], minlength=4)[3] < np.bincount(requests["replica"][arrived])[0]


def test_a_session_stays_where_it_is(tmp_path: Path) -> None:
    trace = tmp_path / "sessions.csv"
    rows = "".join(f"{i * 0.1},100,10,{i % 40}\n" for i in range(400))
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens,session_id\n" + rows)
    flags = f"""--cluster_config_num_replicas 4 --global_scheduler_config_type session_hash
        --request_generator_config_type trace_replay --trace_request_generator_config_trace_file {trace}"""
    placed = simulate(SimulationConfig.from_cli(flags.split())).recording.requests["replica"]
    homes = [set(placed[session::40]) for session in range(40)]
    assert all(len(home) == 1 for home in homes)
    assert len(set.union(*homes)) == 4
    moved = simulate(
        SimulationConfig.from_cli([*flags.split(), "--cluster_config_replica_events", "time=0,replica=2,action=drain"])
    ).recording.requests["replica"]
    assert (moved[placed != 2] == placed[placed != 2]).all() and (moved != 2).all()


def test_size_split_keeps_long_prompts_apart() -> None:
    flags = "--cluster_config_num_replicas 4 --length_generator_config_type quantile --global_scheduler_config_type"
    flags += " size_split --size_split_global_scheduler_config_thresholds 2000"
    flags += " --synthetic_request_generator_config_num_requests 400"
    requests = simulate(SimulationConfig.from_cli(flags.split())).recording.requests
    long = requests["num_prefill_tokens"] > 2000
    assert set(requests["replica"][long]).isdisjoint(requests["replica"][~long])


def test_lookahead_serves_better_than_round_robin_near_capacity() -> None:
    flags = """--cluster_config_num_replicas 4 --replica_config_model_name meta-llama/Meta-Llama-3-8B
        --length_generator_config_type quantile --synthetic_request_generator_config_num_requests 800
        --poisson_request_interval_generator_config_qps 24 --global_scheduler_config_type"""
    mean = {
        router: simulate(SimulationConfig.from_cli([*flags.split(), router])).summary["latency"]["e2e"]["mean"]
        for router in ("round_robin", "lookahead")
    }
    assert mean["lookahead"] < mean["round_robin"]


@pytest.mark.parametrize("policy", ["sarathi", "vllm", "orca", "faster_transformer", "vllm_v1"])
@pytest.mark.parametrize("stages", [1, 2])
def test_lookahead_runs_on_every_policy_with_little_memory(policy: str, stages: int) -> None:
    flags = f"""--cluster_config_num_replicas 2 --global_scheduler_config_type lookahead
        --replica_scheduler_config_type {policy} --{policy}_scheduler_config_num_blocks 600
        --replica_config_num_pipeline_stages {stages} --length_generator_config_type quantile
        --synthetic_request_generator_config_num_requests 60 --poisson_request_interval_generator_config_qps 8
        --cluster_config_replica_events time=2,replica=1,action=fail time=4,replica=1,action=return"""
    recording = simulate(SimulationConfig.from_cli(flags.split())).recording
    assert not recording.partial


ROUTER = """
from vidur.scheduler.routers import GlobalScheduler
class Last(GlobalScheduler):
    def __init__(self, options, context):
        self.replica = options.get("replica", context.num_replicas - 1)
    def schedule(self, observation):
        return self.replica
class NotOne:
    pass
"""

BARE = """
from vidur.scheduler.routers import GlobalScheduler, KernelScheduler
class First(GlobalScheduler):
    def schedule(self, observation):
        return self.options.get("replica", 0) % self.context.num_replicas
class Second(KernelScheduler):
    observes = 0
    def choose(view, memory, draws):
        return 1
"""


def test_a_router_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "my_router.py"
    file.write_text(ROUTER)
    assert set(simulate(config(f"{file}:Last")).recording.requests["replica"]) == {3}
    with pytest.raises(InputError, match="did you mean Last"):
        simulate(config(f"{file}:Lost"))
    with pytest.raises(InputError, match="no subclass"):
        simulate(config(f"{file}:NotOne"))
    with pytest.raises(InputError, match="no such file"):
        simulate(config(f"{tmp_path}/other.py:Last"))
    with pytest.raises(InputError, match="replica 9"):
        simulate(config(f"{file}:Last", '--custom_global_scheduler_config_options {"replica":9}'))


def test_a_kernel_with_other_parameters_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "old_router.py"
    file.write_text(BARE.replace("choose(view, memory, draws)", "choose(now, ledger, gauges, memory, draws)"))
    with pytest.raises(InputError, match=r"must take \(view, memory, draws\)"):
        simulate(config(f"{file}:Second"))


def test_a_router_of_the_users_own_needs_nothing_but_its_decision(tmp_path: Path) -> None:
    file = tmp_path / "bare_router.py"
    file.write_text(BARE)
    assert set(simulate(config(f"{file}:First")).recording.requests["replica"]) == {0}
    options = '--custom_global_scheduler_config_options {"replica":6}'
    assert set(simulate(config(f"{file}:First", options)).recording.requests["replica"]) == {2}
    assert set(simulate(config(f"{file}:Second")).recording.requests["replica"]) == {1}
