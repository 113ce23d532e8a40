"""Compute the code version: a hash of the sources that a simulation's figures depend on."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import vidur
from vidur.config import BaseGlobalSchedulerConfig, CustomGlobalSchedulerConfig, PPOGlobalSchedulerConfig
from vidur.errors import InputError

SIMULATOR = (
    "engine", "scheduler", "execution_time_predictor", "request_generator", "config", "metrics", "memory_planner.py",
    "observation.py", "plans.py", "prefix_index.py", "simulator.py", "compare/figures.py", "compare/record.py",
)  # fmt: skip
# Sources of the learned router, in the package rl.
_LEARNED = ("router",)


def code_version(router: BaseGlobalSchedulerConfig) -> str:
    """Return the version of the simulator with a router: including rl for the learned one, the file for a user's.

    Raises InputError if the file does not exist.
    """
    version = _version(isinstance(router, PPOGlobalSchedulerConfig))
    if isinstance(router, CustomGlobalSchedulerConfig):
        version += hashlib.sha256(_custom_source(router).read_bytes()).hexdigest()[:16]
    return version


@cache
def _version(learned: bool) -> str:
    simulator = Path(vidur.__file__).parent
    parts = [(simulator, simulator / name) for name in SIMULATOR]
    if learned:
        folder = _folder("rl")
        parts += [(folder, folder / name) for name in _LEARNED]
    digest = hashlib.sha256()
    for folder, path in parts:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(folder)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _folder(package: str) -> Path:
    """Return a package's folder without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _custom_source(router: CustomGlobalSchedulerConfig) -> Path:
    where = router.scheduler.rpartition(":")[0]
    if where.endswith(".py"):
        path = Path(where)
    else:
        try:
            spec = importlib.util.find_spec(where)
        except ModuleNotFoundError:
            spec = None
        path = Path(spec.origin if spec is not None and spec.origin is not None else where)
    if not path.is_file():
        raise InputError(f"scheduler {router.scheduler}: there is no {where}")
    return path
