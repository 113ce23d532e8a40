"""Scenarios to test with: small clusters, Azure's conversation lengths."""

from __future__ import annotations

from pathlib import Path

SMALL = """
scenario:
  title: small
  load: {load}
{more}cluster_config:
  replica_groups: {groups}
  replica_config: {{model_name: meta-llama/Meta-Llama-3-8B, device: a100}}
request_generator_config:
  type: synthetic
  length_generator_config: {{type: quantile, distribution: azure_conv_2023, max_tokens: 8192}}
  interval_generator_config: {{type: poisson}}
"""
EQUAL, MIXED = "[{num_replicas: 2}]", "[{num_replicas: 1}, {num_replicas: 1, speed: 0.5}]"


def write_scenario(path: Path, groups: str = EQUAL, load: float = 0.9, more: str = "") -> Path:
    path.write_text(SMALL.format(groups=groups, load=load, more=more))
    return path
