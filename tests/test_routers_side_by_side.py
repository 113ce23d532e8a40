"""Several routers in front of one cluster: each sees what it placed itself, and nothing of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clusters import FAIL, RETURN, SLOW, Cluster, request_table
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.environments import SimulatorEnvironment
from vidur import observation as seen
from vidur.config import SimulationConfig
from vidur.engine.recording import FINISHED as STATUS_FINISHED
from vidur.engine.simulation import Simulation
from vidur.errors import InputError
from vidur.observation import ClusterObservation
from vidur.scheduler.routers import GLOBAL_SCHEDULERS, GlobalScheduler, KernelScheduler, RouterContext
from vidur.simulator import Simulator, simulate

POLICIES = ("sarathi", "vllm", "orca", "faster_transformer", "lightllm", "vllm_v1")
DEPTH = 3
COUNTED = [
    seen.OUTSTANDING,
    seen.AWAITING,
    seen.PROMPT_TOKENS,
    seen.AWAITING_TOKENS,
    seen.STREAMED_TOKENS,
    seen.FINISHED,
]


def lengths(seed: int, count: int) -> tuple[list[int], list[int]]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(1, 100, count)), list(rng.integers(1, 120, count))


def small(policy: str, stages: int, routers: int, **more: object) -> Cluster:
    block_size = 1 if policy == "lightllm" else 16
    blocks, stages = 24 * 16 // block_size, 1 if policy == "lightllm" else stages
    fields: dict[str, object] = {"replicas": 3, "queue_depth": DEPTH, **more}
    return Cluster(policy=policy, stages=stages, routers=routers, num_blocks=blocks, block_size=block_size, **fields)  # type: ignore[arg-type]


def check_against_placed(its: Simulation, observation: ClusterObservation, replica: int) -> None:
    """The row of a replica in the ledger, counted from the requests themselves."""
    placed, row, state = observation.placed(replica), observation.ledger[replica], its.engine
    own = state.requests["router"] == its.router
    assert own[placed.request].all()
    here = own & (state.requests["replica"] == replica)
    ended = here & (state.requests["status"] == STATUS_FINISHED)
    waiting = ~placed.has_first_token
    prompts = placed.prompt_tokens
    expected = [
        len(waiting),
        waiting.sum(),
        prompts.sum(),
        prompts[waiting].sum(),
        placed.streamed_tokens.sum(),
        ended.sum(),
    ]
    assert row[COUNTED].tolist() == expected
    queue = np.zeros((DEPTH, 2))
    heads = np.stack([observation.now - placed.arrived_at[waiting], prompts[waiting]], 1)[:DEPTH]
    queue[: len(heads)] = heads
    assert row[seen.LEDGER_COLUMNS :].tolist() == queue.ravel().tolist()


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_router_sees_what_it_placed_itself(policy: str, data: st.DataObject) -> None:
    """Beside a simulation with one router, in which the same requests go to the same replicas."""
    routers, count = data.draw(st.integers(2, 4)), 60
    events = ((0.2, 1, SLOW, 3.0), (0.4, 0, FAIL, 1.0), (0.6, 0, RETURN, 1.0))
    interval, gap = data.draw(st.sampled_from([0.0, 0.1])), data.draw(st.sampled_from([0.002, 0.02]))
    table = request_table([gap * i for i in range(count)], *lengths(data.draw(st.integers(0, 9999)), count))
    stages = data.draw(st.integers(1, 2))
    several = small(policy, stages, routers, events=events, gauge_interval=interval).simulation(table)
    one = small(policy, stages, 1, events=events, gauge_interval=interval).simulation(table)
    decisions, choices = np.zeros(routers, int), np.random.default_rng(data.draw(st.integers(0, 99)))
    while (observation := several.next_decision()) is not None:
        alone = one.next_decision()
        assert alone is not None and alone.now == observation.now
        router, request = several.router, int(several.engine.clock.current)
        # A request that is routed again, too, is at its own router.
        assert router == request % routers
        assert observation.arrival[seen.ARRIVAL_ORDINAL] == decisions[router]
        decisions[router] += 1
        for replica in range(3):
            check_against_placed(several, observation, replica)
            both = alone.placed(replica)
            own = both.request % routers == router
            assert observation.placed(replica).request.tolist() == both.request[own].tolist()
            assert observation.placed(replica).streamed_tokens.tolist() == both.streamed_tokens[own].tolist()
        assert (observation.gauges == alone.gauges).all()
        assert (observation.ledger[:, seen.ITL_EWMA] == alone.ledger[:, seen.ITL_EWMA]).all()
        ended = several.engine.requests["status"][router::routers] == STATUS_FINISHED
        outputs = several.engine.requests["output"][router::routers][ended]
        completed = observation.completions[[seen.COMPLETED_COUNT, seen.COMPLETED_OUTPUT]]
        assert completed.tolist() == [ended.sum(), outputs.sum()]
        replica = int(choices.choice(np.flatnonzero(observation.available)))
        several.place(replica)
        one.place(replica)
    assert one.next_decision() is None
    assert decisions.sum() >= count
    for name, column in one.engine.recording(False).requests.items():
        assert np.array_equal(column, several.engine.recording(False).requests[name], equal_nan=True), name
    assert several.engine.books.completions.sum(0) == pytest.approx(one.engine.books.completions[0])


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_ledgers_of_all_routers_add_up_to_that_of_one(policy: str, data: st.DataObject) -> None:
    """One request comes in at every router at the same instant: what they see then, none having placed its own yet."""
    routers = data.draw(st.integers(2, 5))
    count, gap = 20 * routers, data.draw(st.sampled_from([0.01, 0.05]))
    table = request_table(
        [gap * (i // routers) for i in range(count)], *lengths(data.draw(st.integers(0, 9999)), count)
    )
    stages = data.draw(st.integers(1, 2))
    several, one = (small(policy, stages, number).simulation(table) for number in (routers, 1))
    choices = np.random.default_rng(data.draw(st.integers(0, 99)))
    for number in range(count):
        observation, alone = several.next_decision(), one.next_decision()
        assert observation is not None and alone is not None
        if number % routers == 0:
            total, expected = np.zeros((3, len(COUNTED))), alone.ledger[:, COUNTED].copy()
        total += observation.ledger[:, COUNTED]
        if number % routers == routers - 1:
            assert (total == expected).all()
        replica = int(choices.integers(3))
        several.place(replica)
        one.place(replica)
    assert expected.sum() > 0


CHAT = """
    --cluster_config_num_replicas 4 --replica_config_model_name meta-llama/Meta-Llama-3-8B
    --length_generator_config_type quantile --synthetic_request_generator_config_num_requests 800
    --poisson_request_interval_generator_config_qps 24 --no-metrics_config_write_metrics
"""
EVENTS = "--cluster_config_replica_events time=10,replica=1,action=fail time=15,replica=1,action=return"


def config(router: str, routers: int, more: str = "") -> SimulationConfig:
    flags = f"{CHAT} --global_scheduler_config_type {router} --cluster_config_num_routers {routers} {more}"
    return SimulationConfig.from_cli(flags.split())


@pytest.mark.parametrize("name", [*GLOBAL_SCHEDULERS.names(), "ppo"])
def test_compiled_and_plain_choose_alike(name: str) -> None:
    whole = simulate(config(name, 3, EVENTS)).recording.requests
    stepped = Simulator(config(name, 3, EVENTS))
    routers, state = stepped.routers, stepped.simulation.engine
    assert len(set(map(id, routers))) == 3
    for router in routers:
        assert isinstance(router, KernelScheduler)
        # The compiled loop draws for all requests before the first.
        router.draw = lambda count: state.books.draws[state.clock.current][None, :]  # type: ignore[method-assign]
    while (observation := stepped.next_decision()) is not None:
        assert stepped.router is routers[stepped.simulation.router]
        stepped.place(stepped.router.schedule(observation))
    for column in ("replica", "completed_at"):
        assert np.array_equal(whole[column], stepped.result().recording.requests[column])


def test_requests_come_in_at_every_router_alike() -> None:
    simulator, again = Simulator(config("random", 4)), Simulator(config("random", 4))
    entered = simulator.simulation.engine.requests["router"]
    assert (entered == again.simulation.engine.requests["router"]).all()
    counts = np.bincount(entered, minlength=4)
    assert ((counts - 200) ** 2 / 200).sum() < 16.3  # chi-squared, 3 degrees of freedom, one in a thousand
    # Nor is there an order in it.
    following = np.bincount(4 * entered[:-1] + entered[1:], minlength=16)
    assert ((following - 800 / 16) ** 2 / 50).sum() < 37.7
    # Each router draws for itself.
    draws = simulator.simulation.engine.books.draws
    first = [draws[entered == router][:100] for router in range(4)]
    assert all((first[i] != first[j]).all() for i in range(4) for j in range(i))


def test_each_round_robin_has_its_own_turn() -> None:
    simulator = Simulator(config("round_robin", 3))
    placed = simulator.run().recording.requests["replica"]
    entered = simulator.simulation.engine.requests["router"]
    for router in range(3):
        own = placed[entered == router]
        assert len(own) > 200
        assert (own == np.arange(len(own)) % 4).all()
    assert (placed != np.arange(800) % 4).any()


def test_routers_that_do_not_see_each_other_balance_worse() -> None:
    def imbalance(routers: int) -> tuple[float, float]:
        """Mean spread of what is outstanding on the replicas, and mean TTFT."""
        simulator = Simulator(config("lor", routers))
        spread = []
        while (observation := simulator.next_decision()) is not None:
            spread.append(np.ptp(simulator.simulation.engine.books.ledger[:, seen.OUTSTANDING]))
            simulator.place(simulator.router.schedule(observation))
        return float(np.mean(spread)), simulator.result().summary["latency"]["ttft"]["mean"]

    (one, ttft), (four, ttft_of_four) = imbalance(1), imbalance(4)
    assert four > 1.5 * one
    assert ttft_of_four > 1.05 * ttft


class Own(GlobalScheduler):
    """Places by turns, and knows what it placed."""

    def __init__(self, options: dict[str, object], context: RouterContext) -> None:
        self.decided = 0
        self.number = context.rng.integers(1 << 60)
        self.known: set[int] = set()
        self.others: set[int] = set()

    def schedule(self, observation: ClusterObservation) -> int:
        for replica in range(4):
            self.known.update(observation.placed(replica).request.tolist())
        self.decided += 1
        return int(np.flatnonzero(observation.available)[self.decided % observation.available.sum()])


def test_a_router_in_python_is_made_once_for_each() -> None:
    simulator = Simulator(config("test_routers_side_by_side:Own", 3, EVENTS))
    recording = simulator.run().recording
    entered = simulator.simulation.engine.requests["router"]
    assert recording.requests["num_reroutes"].sum() > 0
    assert sum(router.decided for router in simulator.routers) == recording.routing_decisions  # type: ignore[attr-defined]
    assert len({router.number for router in simulator.routers}) == 3  # type: ignore[attr-defined]
    for number, router in enumerate(simulator.routers):
        assert isinstance(router, Own)
        assert len(router.known) > 100
        assert set(entered[list(router.known)]) == {number}


def test_lookahead_side_by_side() -> None:
    few = "--synthetic_request_generator_config_num_requests 60"
    assert not simulate(config("lookahead", 2, few)).recording.partial


def test_one_router_is_what_it_was() -> None:
    one = Simulator(config("power_of_two", 1))
    assert one.routers == (one.router,)
    assert (one.simulation.engine.books.draws == np.random.default_rng(one.config.seed).random((800, 2))).all()


def test_what_knows_one_router_refuses_several(tmp_path: Path) -> None:
    message = "--cluster_config_num_routers must be 1, not 2: "
    training = "--ppo_global_scheduler_config_mode train --ppo_global_scheduler_config_checkpoint new"
    with pytest.raises(InputError, match=message + "learning"):
        simulate(config("ppo", 2, f"{training} --ppo_global_scheduler_config_output {tmp_path / 'a.safetensors'}"))
    with pytest.raises(InputError, match=message + "learning"):
        SimulatorEnvironment.from_config(config("lor", 2))
    with pytest.raises(InputError, match=message + "a Simulator that is given its router"):
        Simulator(config("lor", 2), router=Simulator(config("lor", 1)).router)
    with pytest.raises(InputError, match="--cluster_config_num_routers must be at least 1, not 0"):
        config("lor", 0)
