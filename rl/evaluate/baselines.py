"""The routers that the learned one is compared with."""

from __future__ import annotations

SIZE_SPLIT, LEAST_TOKENS = "size_split", "least_tokens"
# Routers that know nothing of the replicas' load.
BLIND = ("round_robin", "random")
# Every heuristic that spreads requests by load or at random; size_split has to be tuned (rl.evaluate.tuning).
HEURISTICS = (
    *BLIND, "lor", LEAST_TOKENS, "power_of_two", "least_kv_cache", "weighted_round_robin", SIZE_SPLIT,
    "lor_by_speed", "fewest_prompts", "backlog_time",
)  # fmt: skip
