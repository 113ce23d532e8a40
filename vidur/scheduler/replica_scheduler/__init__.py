"""Batching policies. Importing this package registers the ones that ship."""

from __future__ import annotations

from vidur.scheduler.replica_scheduler import faster_transformer, lightllm, orca, sarathi, vllm, vllm_v1
from vidur.scheduler.replica_scheduler.policy import FOREVER, POLICIES, Policy

__all__ = ["FOREVER", "POLICIES", "Policy", "faster_transformer", "lightllm", "orca", "sarathi", "vllm", "vllm_v1"]
