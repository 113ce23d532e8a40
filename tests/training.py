"""Command lines of a small training run, and of simulations under the learned router, for tests."""

from __future__ import annotations

from pathlib import Path

REPLICA = "{model_name: meta-llama/Meta-Llama-3-8B, device: a100}"
CLUSTER = "{replica_groups: [{num_replicas: 1}, {num_replicas: 1, speed: 0.25}]}"

SUITE = f"""
base: {{cluster_config: {{replica_config: {REPLICA}}}}}
clusters:
  - {{name: one, cluster_config: {CLUSTER}}}
lengths: [{{distribution: azure_conv_2023, prompt_scale: [0.8, 1.2]}}]
max_tokens: 16384
load: [0.75, 0.9]
poisson_share: 0.5
gamma_cv: [1, 2]
beta: [2, 10]
slow_share: 0.2
slow_factor: [2, 3]
requests: 150
"""

# Without the search: PPO has to learn all there is to learn.
SMALL = [
    "--groups", "2", "--members", "4", "--search_iterations", "0", "--rollout_decisions", "64",
    "--minibatch_decisions", "256", "--validation_episodes", "4", "--learning_rate", "0.003", "--kl_weight", "0",
    "--save_every", "4", "--validate_every", "8",
]  # fmt: skip


def suite_file(folder: Path, cluster: str = CLUSTER, replica: str = REPLICA) -> Path:
    """A suite of one cluster: its cluster_config, and the replica_config of its replicas, as YAML in one line."""
    path = folder / "suite.yaml"
    path.write_text(SUITE.replace(CLUSTER, cluster).replace(REPLICA, replica))
    return path


def flags(folder: Path, decisions: int, *more: str, suite: Path | None = None) -> list[str]:
    """The command line of a run of `decisions` in `folder`/run."""
    run = ["--folder", str(folder / "run"), "--suite", str(suite or suite_file(folder)), "--decisions", str(decisions)]
    return [*run, *SMALL, *more]


ROUTER = "--ppo_global_scheduler_config_"
# A workload under the learned router.
BUSY = [
    "--replica_config_model_name", "meta-llama/Meta-Llama-3-8B", "--length_generator_config_type", "quantile",
    "--quantile_request_length_generator_config_distribution", "azure_conv_2023",
    "--poisson_request_interval_generator_config_qps", "6", "--no-metrics_config_store_plots",
    "--global_scheduler_config_type", "ppo",
]  # fmt: skip


def router_flags(replicas: int, requests: int, **ppo: object) -> list[str]:
    """The command line of a simulation under the learned router, with these settings of its own."""
    given = [word for name, value in ppo.items() for word in (f"{ROUTER}{name}", str(value))]
    count = ["--cluster_config_num_replicas", str(replicas), "--synthetic_request_generator_config_num_requests"]
    return [*BUSY, *count, str(requests), *given]
