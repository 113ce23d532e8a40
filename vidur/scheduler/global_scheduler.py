"""The old name of vidur.scheduler.routers, kept for users' routers that import it."""

from vidur.scheduler.routers import DrivingScheduler, GlobalScheduler, KernelScheduler, RouterContext

__all__ = ["DrivingScheduler", "GlobalScheduler", "KernelScheduler", "RouterContext"]
