"""Another library's PPO learns to route: sb3-contrib's MaskablePPO on the Gymnasium environment.

python docs/examples/sb3_ppo.py [--steps N] [--config FILE]

A cross-check of the environment and of the reward: what learns from them need not be this package's. The cluster is a
replica and one at two fifths of its speed, near its capacity: random routing is bad, and so is any choice that does not
look at the queues.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rl.environments.gym import RoutingEnv
from vidur import SimulationConfig, Simulator
from vidur.config import (
    BaseGlobalSchedulerConfig,
    LeastTokensGlobalSchedulerConfig,
    RandomGlobalSchedulerConfig,
    RoundRobinGlobalSchedulerConfig,
)

UNEVEN = {
    "cluster_config": {
        "replica_config": {"model_name": "meta-llama/Meta-Llama-3-8B", "device": "a100"},
        "replica_groups": [{"num_replicas": 1}, {"num_replicas": 1, "speed": 0.4}],
    },
    "request_generator_config": {
        "type": "synthetic",
        "num_requests": 150,
        "length_generator_config": {"type": "quantile", "distribution": "azure_conv_2023", "max_tokens": 16384},
        "interval_generator_config": {"type": "poisson", "qps": 8.5},
    },
}
EVALUATION_SEEDS = range(10_000, 10_008)

# A replica for an observation and a mask of those that are there.
Choose = Callable[[NDArray[np.float32], NDArray[np.bool_]], int]


def learn(config: SimulationConfig, steps: int, seed: int = 0) -> Choose:
    """Train on workloads drawn by the environment."""
    torch.set_num_threads(1)
    # The reward of a placement holds its consequences already, hence the small gamma.
    envs = VecNormalize(DummyVecEnv([lambda: RoutingEnv(config)] * 4), gamma=0.5)
    model = MaskablePPO(
        "MlpPolicy", envs, n_steps=256, batch_size=128, n_epochs=5, gamma=0.5, learning_rate=1e-3, seed=seed,
        device="cpu",
    )  # fmt: skip
    model.learn(steps)

    def choose(seen: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
        return int(model.predict(envs.normalize_obs(seen), action_masks=mask, deterministic=True)[0])

    return choose


def mean_e2e(config: SimulationConfig, choose: Choose) -> float:
    """Seconds, over the workloads of EVALUATION_SEEDS."""
    env, means = RoutingEnv(config), []
    for seed in EVALUATION_SEEDS:
        seen, info = env.reset(seed=seed)
        ended = False
        while not ended:
            seen, _, terminated, truncated, info = env.step(np.int64(choose(seen, env.action_masks())))
            ended = terminated or truncated
        means.append(info["mean_e2e"])
    return float(np.mean(means))


def mean_e2e_under(config: SimulationConfig, router: BaseGlobalSchedulerConfig) -> float:
    """Seconds, of a router over the same workloads."""
    env, means = RoutingEnv(config), []
    cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
    for seed in EVALUATION_SEEDS:
        env.reset(seed=seed)
        result = Simulator(dataclasses.replace(config, cluster_config=cluster, seed=seed), env.requests).run()
        means.append(result.requests["request_e2e_time"].mean())
    return float(np.mean(means))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000, metavar="N")
    parser.add_argument("--config", metavar="FILE", help="a cluster and a workload of your own")
    arguments = parser.parse_args()
    config = SimulationConfig.from_dict(UNEVEN)
    if arguments.config:
        config = SimulationConfig.from_file(arguments.config)
    routers = (RandomGlobalSchedulerConfig(), RoundRobinGlobalSchedulerConfig(), LeastTokensGlobalSchedulerConfig())
    for router in routers:
        print(f"{router.get_type():<16}{mean_e2e_under(config, router):7.2f} s mean E2E", flush=True)
    print(f"{'replica 0 only':<16}{mean_e2e(config, lambda seen, mask: 0):7.2f} s mean E2E", flush=True)
    print(f"{'MaskablePPO':<16}{mean_e2e(config, learn(config, arguments.steps)):7.2f} s mean E2E")


if __name__ == "__main__":
    main()
