"""The former place of vidur.scheduler.routers, for routers of users that import it."""

from vidur.scheduler.routers import DrivingScheduler, GlobalScheduler, KernelScheduler, RouterContext

__all__ = ["DrivingScheduler", "GlobalScheduler", "KernelScheduler", "RouterContext"]
