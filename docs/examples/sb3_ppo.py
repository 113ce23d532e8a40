"""Another library's PPO learns to route: sb3-contrib's MaskablePPO on the Gymnasium environment.

python docs/examples/sb3_ppo.py [--steps N] [--config FILE]

A cross-check of the environment and of the reward: what learns from them need not be this package's. The cluster is one
fast replica and one at a quarter of its speed, near its capacity, where random routing is bad.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from sb3_contrib import MaskablePPO

from rl.gym_environment import RoutingEnv
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
        "replica_groups": [{"num_replicas": 1}, {"num_replicas": 1, "speed": 0.25}],
    },
    "request_generator_config": {
        "type": "synthetic",
        "num_requests": 150,
        "length_generator_config": {"type": "quantile", "distribution": "azure_conv_2023", "max_tokens": 16384},
        "interval_generator_config": {"type": "poisson", "qps": 7},
    },
}
EVALUATION_SEEDS = range(10_000, 10_008)


def learn(config: SimulationConfig, steps: int, seed: int = 0) -> MaskablePPO:
    """Train on workloads drawn by the environment."""
    env = RoutingEnv(config)
    model = MaskablePPO(
        "MlpPolicy", env, n_steps=512, batch_size=128, n_epochs=5, gamma=0.95, learning_rate=1e-3, seed=seed,
        device="cpu",
    )  # fmt: skip
    return model.learn(steps)


def mean_e2e(config: SimulationConfig, model: MaskablePPO) -> float:
    """Seconds, of the model's best choices over the workloads of EVALUATION_SEEDS."""
    env, means = RoutingEnv(config), []
    for seed in EVALUATION_SEEDS:
        seen, info = env.reset(seed=seed)
        ended = False
        while not ended:
            action, _ = model.predict(seen, action_masks=env.action_masks(), deterministic=True)
            seen, _, terminated, truncated, info = env.step(action)
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
    parser.add_argument("--steps", type=int, default=15_000, metavar="N")
    parser.add_argument("--config", metavar="FILE", help="a cluster and a workload of your own")
    arguments = parser.parse_args()
    config = SimulationConfig.from_dict(UNEVEN)
    if arguments.config:
        config = SimulationConfig.from_file(arguments.config)
    routers = (RandomGlobalSchedulerConfig(), RoundRobinGlobalSchedulerConfig(), LeastTokensGlobalSchedulerConfig())
    for router in routers:
        print(f"{router.get_type():<14}{mean_e2e_under(config, router):7.2f} s mean E2E", flush=True)
    print(f"{'MaskablePPO':<14}{mean_e2e(config, learn(config, arguments.steps)):7.2f} s mean E2E")


if __name__ == "__main__":
    main()
