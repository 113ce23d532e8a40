"""The simulator behind the interface: its rewards are those of rollouts, whatever the reward; ends, limits, misuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_foresight import some_weights
from test_gym_environment import config

from rl.environments.environment import Episodes, RoutingEnvironment, SimulatorEnvironment
from rl.environments.gym import RoutingEnv
from rl.environments.vector import RoutingVectorEnv
from rl.reward.config import shipped_rewards
from rl.reward.reward import Reward, RewardConfig, Window
from rl.simulate.rollout import RunningSimulation
from vidur import SimulationConfig, Simulator
from vidur.config import PPOGlobalSchedulerConfig
from vidur.errors import InputError
from vidur.observation import Floats

EVENTS = [{"time": 1.0, "replica": 1, "action": "fail"}, {"time": 2.5, "replica": 1, "action": "return"}]


def with_reward(name: str, plain: SimulationConfig) -> SimulationConfig:
    """The configuration with `ppo` as its router, at a beta of 20 and a queue depth of 2."""
    router = PPOGlobalSchedulerConfig(reward=name, beta=20.0, max_queue_requests=2)
    return dataclasses.replace(
        plain, cluster_config=dataclasses.replace(plain.cluster_config, global_scheduler_config=router)
    )


def follow(environment: RoutingEnvironment, actions: list[int]) -> list[float]:
    """Written against the interface, as an agent is: the rewards of these acts."""
    rewards = []
    for action in actions:
        assert environment.observe() is not None
        environment.act(action)
        rewards.append(environment.reward())
    assert environment.observe() is None
    return rewards


@pytest.mark.parametrize("name", shipped_rewards())
def test_each_shipped_reward_is_what_a_rollout_makes_of_the_same_decisions(name: str) -> None:
    """One decision at a time, of which what comes later is not known yet, against the whole simulation at once."""
    episodes = Episodes(with_reward(name, config(3, 60)))
    environment = episodes.begin(3)
    running = RunningSimulation.of(episodes.plans, environment.requests, 2, 20.0)
    memory = some_weights(2).memory(20.0, True)
    rollout = running.roll(memory, 61, np.random.default_rng(2))
    assert rollout.ended and len(rollout) == 60
    plain = dataclasses.replace(RewardConfig.load(name), normalisation="none")
    episodes.reward = Reward(plain)
    environment = episodes.begin(3)
    found = follow(environment, rollout.actions.tolist())
    wanted = Reward(plain).evaluate(Window.of(rollout, running), 0.0).clipped
    assert len(np.unique(wanted)) > 10
    assert found == pytest.approx(wanted.tolist(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("term", ["marginal_cost", "sojourn_time"])
def test_rewards_side_by_side_are_those_one_by_one(term: str, tmp_path: Path) -> None:
    """Those of the costs alone are computed for all simulations at once, others one by one."""
    name = str(tmp_path / "reward.yaml")
    Path(name).write_text(f"terms: [{{term: {term}, weight: 2}}]\nclip: {{low: -3}}\n")
    setup = with_reward(name, config(2, 25))
    many = RoutingVectorEnv([setup, with_reward(name, config(3, 25))], 4)
    many.reset(seed=3)
    alone = RoutingEnv(setup)
    alone.reset(seed=3 + 2)
    for step in range(24):
        action = step * 5 % 3 % 2
        assert many.step(np.full(4, action))[1][2] == pytest.approx(alone.step(np.int64(action))[1], rel=1e-12)
    many.close()


def test_threads_change_nothing() -> None:
    def episode(threads: int) -> tuple[Floats, Floats]:
        many = RoutingVectorEnv(config(3, 30), 5, threads=threads)
        many.reset(seed=1)
        rng = np.random.default_rng(0)
        steps = [many.step(rng.integers(0, 3, 5)) for _ in range(40)]
        many.close()
        return np.stack([step[0] for step in steps]), np.stack([step[1] for step in steps])

    for one, three in zip(episode(1), episode(3), strict=True):
        assert np.array_equal(one, three)


def test_it_is_the_simulation_of_the_simulator() -> None:
    """Through a failure: the same placements give the same times, bit for bit."""
    setup = config(3, 60, replica_events=EVENTS)
    simulator = Simulator(setup)
    environment = SimulatorEnvironment.from_config(setup)
    count = 0
    while (observation := environment.observe()) is not None:
        theirs = simulator.next_decision()
        assert theirs is not None and theirs.now == observation.now
        assert np.array_equal(theirs.ledger, observation.ledger[:, : theirs.ledger.shape[1]])
        choice = int(np.flatnonzero(observation.available)[count % observation.available.sum()])
        environment.act(choice)
        simulator.place(choice)
        count += 1
    assert simulator.next_decision() is None and count > 60
    assert environment.ended and not environment.cut and environment.outstanding == 0
    requests = simulator.simulation.engine.requests
    for field in ("first_token_at", "completed_at", "execution_time", "replica"):
        assert np.array_equal(environment.engine.requests[field], requests[field], equal_nan=True), field
    e2e = requests["completed_at"] - requests["arrived_at"]
    assert environment.figures()["mean_e2e"] == pytest.approx(e2e.mean(), rel=1e-12)
    assert environment.now == pytest.approx(requests["completed_at"].max())


def test_observing_twice_is_the_same_decision_and_acting_twice_is_refused() -> None:
    environment = SimulatorEnvironment.from_config(config(2, 5))
    with pytest.raises(RuntimeError, match="observe first"):
        environment.act(0)
    first, again = environment.observe(), environment.observe()
    assert first is not None and again is not None and (first.now, first.arrival[0]) == (again.now, again.arrival[0])
    environment.act(0)
    with pytest.raises(RuntimeError, match="observe first"):
        environment.act(0)
    assert environment.engine.books.routed[0] == 1


@pytest.mark.parametrize("replica", [-1, 2, 7])
def test_a_replica_that_is_not_there_is_refused_and_the_decision_stays(replica: int) -> None:
    environment = SimulatorEnvironment.from_config(config(2, 5))
    environment.observe()
    with pytest.raises(InputError, match=f"replica {replica} is not available"):
        environment.act(replica)
    environment.act(1)
    assert environment.engine.books.routed[0] == 1


def test_a_request_that_no_memory_holds_is_named() -> None:
    environment = SimulatorEnvironment.from_config(
        config(2, 40, replica_groups=[{"num_replicas": 1}, {"num_replicas": 1, "num_blocks": 8}])
    )
    with pytest.raises(InputError, match=r"replica 1 can never hold a request of \d+ prompt and \d+ output tokens"):
        follow(environment, [1] * 40)


def test_a_time_limit_truncates() -> None:
    limited = dataclasses.replace(config(2, 200), time_limit=3)
    env = RoutingEnv(limited)
    env.reset(seed=0)
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        seen, _, terminated, truncated, info = env.step(np.int64(steps % 2))
        steps += 1
    assert truncated and not terminated and 10 < steps < 100
    assert not seen.any() and info["time"] <= 3.0
    many = RoutingVectorEnv(limited, 2)
    many.reset(seed=0)
    for _ in range(steps - 1):
        assert not many.step(np.zeros(2, np.int64))[3].any()
    assert many.step(np.zeros(2, np.int64))[3][0]
    many.close()


def test_every_seed_is_a_workload_of_its_own() -> None:
    env = RoutingEnv(config(2, 20))
    env.reset(seed=1)
    first = env.requests.arrived_at
    env.reset()
    second = env.requests.arrived_at
    env.reset(seed=1)
    assert np.array_equal(env.requests.arrived_at, first)
    env.reset()
    assert np.array_equal(env.requests.arrived_at, second) and not np.array_equal(first, second)


def test_a_step_before_a_reset_and_nothing_to_step_are_refused() -> None:
    with pytest.raises(RuntimeError, match="reset first"):
        RoutingEnv(config(2, 5)).step(np.int64(0))
    with pytest.raises(InputError, match="at least one"):
        RoutingVectorEnv(config(2, 5), 0)
