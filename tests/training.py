"""A small training run, for tests."""

from __future__ import annotations

from pathlib import Path

SUITE = """
base: {cluster_config: {replica_config: {model_name: meta-llama/Meta-Llama-3-8B, device: a100}}}
clusters:
  - {name: uneven, cluster_config: {replica_groups: [{num_replicas: 1}, {num_replicas: 1, speed: 0.25}]}}
lengths: [{distribution: azure_conv_2023, prompt_scale: [0.8, 1.2]}]
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


def suite_file(folder: Path) -> Path:
    path = folder / "suite.yaml"
    path.write_text(SUITE)
    return path


def flags(folder: Path, decisions: int, *more: str, suite: Path | None = None) -> list[str]:
    """The command line of a run of `decisions` in `folder`/run."""
    run = ["--folder", str(folder / "run"), "--suite", str(suite or suite_file(folder)), "--decisions", str(decisions)]
    return [*run, *SMALL, *more]
