"""Compile kernels and cache them on disk.

Numba's cache checks a kernel's own file but not the files of the kernels it calls, so an edit can leave a stale caller.
Here the folder's name is a hash of every kernel file: any edit starts a new folder. NUMBA_DISABLE_JIT=1 runs kernels as
plain Python.

Cached machine code is executed, so a folder that other users can write to is refused unless VIDUR_TRUST_CACHE=1.
Without a folder every process compiles anew.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

from vidur.data_files import cache_folder, optional, warn_once, writable_by_others

F = TypeVar("F", bound=Callable[..., Any])

_settings: Any = numba.config
COMPILED = not _settings.DISABLE_JIT
_OPTIONS: dict[str, Any] = {"error_model": "numpy"}
_WHAT = "Compiled kernels"
# Folders of the kernels and of the plain functions compiled with them.
KERNEL_FOLDERS = ("vidur/engine", "vidur/scheduler", "rl/router", "rl/simulate")
# Kernels that Python calls.
ENTRY_POINTS = ("run", "place")


def kernel_folder() -> Path | None:
    """Return the cache folder for these kernel sources at this path; None if no safe folder can be made."""
    packages = Path(__file__).resolve().parent.parent.parent
    digest = hashlib.sha256(f"{numba.__version__} {packages}".encode())
    for folder in KERNEL_FOLDERS:
        for file in sorted((packages / folder).rglob("*.py")):
            # Numba recompiles when a file's modification time changes, so it belongs to the key.
            digest.update(f"{file.relative_to(packages)} {file.stat().st_mtime_ns}".encode())
            digest.update(file.read_bytes())
    kept = cache_folder(f"kernels/{digest.hexdigest()[:16]}", _WHAT)
    if kept is None or os.environ.get("VIDUR_TRUST_CACHE") == "1":
        return kept
    unsafe = writable_by_others(kept)
    if unsafe is not None:
        warn_once(
            f"{_WHAT} are not kept: other users can write to {unsafe} and could run code as you; set "
            "VIDUR_CACHE_DIR to a folder of your own, or VIDUR_TRUST_CACHE=1 if you trust them"
        )
        return None
    return kept


_FOLDER = kernel_folder() if COMPILED else None
# Numba's cache folder is a process-wide setting, and simulations may start in several threads.
lock = threading.RLock()


def is_cached() -> bool:
    """Whether an earlier process compiled and cached these kernels."""
    return not COMPILED or (_FOLDER is not None and (_FOLDER / "complete").exists())


def mark_cached() -> None:
    """Remember that a whole simulation ran with these kernels."""
    if _FOLDER is not None and not is_cached():
        with optional(_WHAT):
            (_FOLDER / "complete").touch()


class _KernelCache(FunctionCache):
    """Numba's cache of one kernel, which skips saving when the disk is full."""

    def save_overload(self, signature: Any, compiled: Any) -> None:
        with optional(_WHAT):
            super().save_overload(signature, compiled)  # type: ignore[no-untyped-call]


def _in_folder(make: Callable[[], Any]) -> Any:
    """Call `make` with Numba's cache folder set to ours, then restore it for other users of Numba."""
    with lock:
        before = _settings.CACHE_DIR
        _settings.CACHE_DIR = str(_FOLDER)
        try:
            return make()
        finally:
            _settings.CACHE_DIR = before


def kernel(function: F) -> F:
    """Compile `function` on its first call, inlined into its callers. It cannot make arrays: see `allocating_kernel`.

    Numba's memory management is off: its atomic reference counts at every call and slice cost a third of a step.
    """
    inline = function.__name__ not in ENTRY_POINTS
    return _compile(function, nogil=True, forceinline=inline, _nrt=False)


def allocating_kernel(function: F) -> F:
    """Compile `function` on its first call. It may make arrays."""
    return _compile(function, nogil=True)


def _compile(function: F, **options: Any) -> F:
    if not COMPILED:
        return function
    dispatcher = numba.njit(**options, **_OPTIONS)(function)
    if _FOLDER is not None:
        dispatcher._cache = _in_folder(lambda: _KernelCache(function))  # type: ignore[no-untyped-call]
    return dispatcher  # type: ignore[no-any-return]


def compile_callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a C function of this Numba signature; its `address` is valid while the object lives."""
    if _FOLDER is not None:
        with optional(_WHAT):
            return _in_folder(lambda: numba.cfunc(signature, cache=True, **_OPTIONS)(function))
    return numba.cfunc(signature, **_OPTIONS)(function)
