"""The environments: Gymnasium's checker, whole episodes, masks, many side by side, another library's PPO."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl.environments import SimulatorEnvironment
from rl.environments.gym import ENVIRONMENT_ID, RoutingEnv
from rl.environments.vector import RoutingVectorEnv
from rl.reward.cost import episode_cost
from vidur import SimulationConfig
from vidur.errors import InputError
from vidur.observation import DECODE_SECONDS, OUTSTANDING

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def config(replicas: int = 3, requests: int = 40, **cluster: Any) -> SimulationConfig:
    return SimulationConfig.from_dict(
        {
            "cluster_config": {
                "num_replicas": replicas,
                "replica_config": {"model_name": "meta-llama/Meta-Llama-3-8B", "device": "a100"},
                **cluster,
            },
            "request_generator_config": {
                "type": "synthetic",
                "num_requests": requests,
                "length_generator_config": {"type": "quantile", "distribution": "azure_conv_2023"},
                "interval_generator_config": {"type": "poisson", "qps": 6 * replicas},
            },
        }
    )


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_gymnasium_has_no_objection(replicas: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(RoutingEnv(config(replicas)), skip_render_check=True)
        made = gymnasium.make(f"rl.environments.gym:{ENVIRONMENT_ID}", config=config(replicas))
    assert made.observation_space.shape == RoutingEnv(config(replicas)).observation_space.shape


def play(env: RoutingEnv, seed: int) -> tuple[list[float], dict[str, Any]]:
    """Rewards of an episode of replicas in turns, and the last info."""
    _, info = env.reset(seed=seed)
    rewards, ended = [], False
    while not ended:
        action = len(rewards) % int(env.action_space.n)  # type: ignore[attr-defined]
        seen, reward, terminated, truncated, info = env.step(np.int64(action))
        assert seen in env.observation_space
        rewards.append(reward)
        ended = terminated or truncated
    return rewards, info


def test_an_episode_s_rewards_add_up_to_its_cost() -> None:
    env = RoutingEnv(config())
    rewards, info = play(env, 5)
    assert len(rewards) == 40 and info["mean_e2e"] > info["mean_ttft"] > 0
    engine = env.simulation.engine
    ttft = engine.requests["first_token_at"] - engine.requests["arrived_at"]
    e2e = engine.requests["completed_at"] - engine.requests["arrived_at"]
    cost = episode_cost(ttft, e2e, 10.0, float(engine.books.hardware[:, DECODE_SECONDS].min()))
    assert sum(rewards) == pytest.approx(-40 * cost, rel=1e-9)
    assert play(env, 5) == (rewards, info)
    assert play(env, 6)[0] != rewards


def test_the_interface_decides_one_request_at_a_time() -> None:
    environment = SimulatorEnvironment.from_config(config(2, 30))
    total = decided = 0
    while (observation := environment.observe()) is not None:
        assert observation is not None and observation.num_replicas == environment.num_replicas == 2
        environment.act(int(observation.ledger[:, OUTSTANDING].argmin()))
        total += environment.reward()
        assert environment.reward() == 0.0
        decided += 1
    assert decided == 30 and total < 0


def test_replicas_that_are_away_are_masked_and_refused() -> None:
    events = [{"time": 0.5, "replica": 1, "action": "fail"}, {"time": 1.5, "replica": 1, "action": "return"}]
    env = RoutingEnv(config(3, 60, replica_events=events))
    env.reset(seed=1)
    masks, refused, ended = set(), 0, False
    while not ended:
        mask = env.action_masks()
        masks.add(tuple(mask.tolist()))
        if not mask[1] and not refused:
            refused = 1
            with pytest.raises(InputError, match="replica 1"):
                env.step(np.int64(1))
        _, _, ended, _, _ = env.step(np.int64(np.flatnonzero(mask)[-1]))
    assert masks == {(True, True, True), (True, False, True)}


def test_simulations_side_by_side_are_those_one_by_one() -> None:
    count, steps = 3, 55
    many = RoutingVectorEnv(config(2), count, threads=2)
    alone = [RoutingEnv(config(2)) for _ in range(count)]
    seen, _ = many.reset(seed=7)
    singles = [env.reset(seed=7 + index)[0] for index, env in enumerate(alone)]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        assert np.array_equal(seen, np.stack(singles))
        actions = rng.integers(0, 2, count)
        seen, rewards, terminated, _, info = many.step(actions)
        for index, env in enumerate(alone):
            single, reward, ended, _, _ = env.step(np.int64(actions[index]))
            assert rewards[index] == pytest.approx(reward, rel=1e-12) and terminated[index] == ended
            if ended:
                assert np.array_equal(info["final_obs"][index], single)
                single, _ = env.reset()
            singles[index] = single
    many.close()


def test_clusters_of_other_sizes_are_padded() -> None:
    many = RoutingVectorEnv([config(2), config(4)], 2)
    seen, _ = many.reset(seed=1)
    assert many.action_masks().tolist() == [[True, True, False, False], [True] * 4]
    assert seen.shape == many.observation_space.shape == (2, many.encoder.flat_dimension)
    many.close()


def test_another_library_s_ppo_learns_to_route() -> None:
    spec = importlib.util.spec_from_file_location("sb3_ppo", EXAMPLES / "sb3_ppo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sb3_ppo"] = module
    spec.loader.exec_module(module)
    uneven = SimulationConfig.from_dict(module.UNEVEN)
    learned = module.mean_e2e(uneven, module.learn(uneven, 8192))
    assert learned < 0.8 * module.mean_e2e_under(uneven, module.RandomGlobalSchedulerConfig())
    # It looks at what it sees: no constant choice does as well.
    assert learned < 0.97 * module.mean_e2e(uneven, lambda seen, mask: 0)
