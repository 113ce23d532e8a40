"""Batching policies. Importing this package registers the built-in ones."""

from __future__ import annotations

from vidur.scheduler.batching import faster_transformer, lightllm, orca, sarathi, vllm, vllm_v1

__all__ = ["faster_transformer", "lightllm", "orca", "sarathi", "vllm", "vllm_v1"]
