"""Routers. Importing this package registers the ones that ship."""

from __future__ import annotations

from vidur.scheduler.global_scheduler import round_robin
from vidur.scheduler.global_scheduler.base import GLOBAL_SCHEDULERS, GlobalScheduler, KernelScheduler

__all__ = ["GLOBAL_SCHEDULERS", "GlobalScheduler", "KernelScheduler", "round_robin"]
