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
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import types
from numba.core.caching import FunctionCache

from vidur.data_files import cache_folder, optional, warn_once, writable_by_others

F = TypeVar("F", bound=Callable[..., Any])

_settings: Any = numba.config
COMPILED = not _settings.DISABLE_JIT
_OPTIONS: dict[str, Any] = {"error_model": "numpy"}
_WHAT = "Compiled kernels"
# Folders of the kernels and of the plain functions compiled with them.
KERNEL_FOLDERS = ("vidur/engine", "vidur/scheduler", "rl/router", "rl/simulate")
# Python calls no inner kernel, so that nothing has to be compiled for it to do so.
INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
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
    inner = {} if function.__name__ in ENTRY_POINTS else {"forceinline": True, **INNER}
    return _compile(function, nogil=True, _nrt=False, **inner)


def cold_kernel(function: F) -> F:
    """Compile `function` on its first call, as a kernel that is not inlined: for what is large or seldom done. Its
    callers, and theirs, are compiled without another copy of it."""
    return _compile(function, nogil=True, _nrt=False, **INNER)


def allocating_kernel(function: F) -> F:
    """Compile `function` on its first call. It may make arrays."""
    return _compile(function, nogil=True)


def _compile(function: F, **options: Any) -> F:
    if not COMPILED:
        return function
    dispatcher = numba.njit(**options, **_OPTIONS)(function)
    template = dispatcher.get_call_template
    # Numba would compile a kernel once more for each constant that another kernel passes to it.
    dispatcher.get_call_template = lambda args, kws: template(tuple(map(types.unliteral, args)), kws)
    if "no_cpython_wrapper" in options:
        # An inner kernel has no wrapper for Python, and goes into the cache with its callers.
        dispatcher.add_overload = lambda made: dispatcher.overloads.update({tuple(made.signature.args): made})
        dispatcher._compile_for_args = partial(_refuse_python, function.__name__)
    elif _FOLDER is not None:
        dispatcher._cache = _in_folder(lambda: _KernelCache(function))  # type: ignore[no-untyped-call]
    return dispatcher  # type: ignore[no-any-return]


def _refuse_python(name: str, *arguments: Any, **keywords: Any) -> None:
    raise TypeError(f"{name} is called from other kernels only; from Python call one that is an allocating_kernel")


def address_of(entry_point: Any, signature: Any) -> int:
    """Return the address of a compiled entry point as a C function of this Numba signature."""
    entry_point.compile(signature.args)
    made = entry_point.overloads[signature.args]
    return int(made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name))


def compile_callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a C function of this Numba signature; its `address` is valid while the object lives."""
    if _FOLDER is not None:
        with optional(_WHAT):
            return _in_folder(lambda: numba.cfunc(signature, cache=True, **_OPTIONS)(function))
    return numba.cfunc(signature, **_OPTIONS)(function)


@contextmanager
def compiled_beside(statement: str, function: Callable[..., Any]) -> Iterator[None]:
    """Compile in another process what `statement` compiles, while the body compiles something else.

    The statement calls the function by the name `function`. Where that is not to be had, or was compiled before, the
    body runs alone; whoever needs the function compiles it then.
    """
    module = sys.modules.get(function.__module__)
    importable = getattr(module, function.__name__, None) is function and find_spec(function.__module__) is not None
    if is_cached() or _FOLDER is None or not importable or len(os.sched_getaffinity(0)) < 2:
        yield
        return
    known = [name for name in sys.modules if name.startswith(("vidur.", "rl.")) and name.endswith(".compiled")]
    program = f"import {', '.join([function.__module__, *known])}\nfunction = sys.modules[{function.__module__!r}]"
    # The first line ends the process with its parent, however that ends (prctl, PR_SET_PDEATHSIG).
    program = f"import ctypes, sys; ctypes.CDLL(None).prctl(1, 9)\n{program}.{function.__name__}\n{statement}\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    nowhere = subprocess.DEVNULL
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere
    )
    try:
        yield
        child.wait()
    finally:
        child.kill()
        child.wait()
