"""Load a user's router by import path."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from vidur.config import CustomGlobalSchedulerConfig
from vidur.errors import InputError, unknown_name
from vidur.scheduler.routers.base import GlobalScheduler, KernelScheduler, RouterContext


def load_custom_scheduler(config: CustomGlobalSchedulerConfig, context: RouterContext) -> GlobalScheduler:
    """Import `module:Class` or `file.py:Class` and create a router. Raises InputError if there is no such class."""
    return custom_maker(config)(context)


def custom_maker(config: CustomGlobalSchedulerConfig) -> Callable[[RouterContext], GlobalScheduler]:
    """Import the class and return a function that creates its routers. Raises InputError if there is no such class."""
    where, _, name = config.scheduler.rpartition(":")
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    cls = getattr(module, name, None)
    if not isinstance(cls, type) or not issubclass(cls, GlobalScheduler):
        routers = [
            key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, GlobalScheduler)
        ]
        if cls is None:
            raise unknown_name(f"class in {where}", name, routers)
        raise InputError(f"{config.scheduler} is no subclass of vidur.scheduler.routers.GlobalScheduler")
    if issubclass(cls, KernelScheduler) and len(inspect.signature(cls.choose).parameters) != 3:
        raise InputError(f"{config.scheduler}: its `choose` must take (view, memory, draws): vidur.observation.View")
    if issubclass(cls, KernelScheduler) and cls.__init__ is KernelScheduler.__init__:
        return partial(cls.from_config, config)
    make: Callable[..., GlobalScheduler] = cls
    return partial(make, config.parsed_options)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--global_scheduler_config_type: no such file: {path}")
    # The cache of compiled kernels needs a module name that is unique to this file and importable.
    name = f"vidur_custom_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise InputError(f"--global_scheduler_config_type: {path} cannot be imported: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise InputError(f"--global_scheduler_config_type: module {name} cannot be imported: {error}") from error
