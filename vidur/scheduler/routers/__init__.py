"""Routers. Importing this package registers the built-in ones except `lookahead`, which needs the engine."""

from __future__ import annotations

from vidur.scheduler.routers import (
    backlog_time,
    fewest_prompts,
    least_kv_cache,
    least_tokens,
    lor,
    lor_by_speed,
    power_of_two,
    random,
    round_robin,
    session_hash,
    size_split,
    weighted_round_robin,
)
from vidur.scheduler.routers.base import (
    GLOBAL_SCHEDULERS,
    DrivingScheduler,
    GlobalScheduler,
    KernelScheduler,
    RouterContext,
)

__all__ = [
    "GLOBAL_SCHEDULERS",
    "DrivingScheduler",
    "GlobalScheduler",
    "KernelScheduler",
    "RouterContext",
    "backlog_time",
    "fewest_prompts",
    "least_kv_cache",
    "least_tokens",
    "lor",
    "lor_by_speed",
    "power_of_two",
    "random",
    "round_robin",
    "session_hash",
    "size_split",
    "weighted_round_robin",
]
