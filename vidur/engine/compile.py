"""Compiling kernels, and keeping what was compiled.

Numba's own cache looks at the file of a kernel but not at the files of the kernels that it calls, so an edit can leave
a stale caller behind. Here the cache folder is named after the contents of every kernel file, hence an edit anywhere
starts a new folder. With NUMBA_DISABLE_JIT=1 every kernel is plain Python.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vidur.data_files import cache_root

F = TypeVar("F", bound=Callable[..., Any])

_settings: Any = numba.config
COMPILED = not _settings.DISABLE_JIT
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy"}
# Kernels that Python calls.
ENTRY_POINTS = ("run", "place")


def cache_folder() -> Path:
    """Where compiled kernels lie: by the kernels' sources and where they lie."""
    packages = Path(__file__).resolve().parent.parent.parent
    digest = hashlib.sha256(f"{numba.__version__} {packages}".encode())
    for folder in ("vidur/engine", "vidur/scheduler", "rl/kernels"):
        for file in sorted((packages / folder).rglob("*.py")):
            # Numba asks for the time of a file too, and compiles anew where it has changed.
            digest.update(f"{file.relative_to(packages)} {file.stat().st_mtime_ns}".encode())
            digest.update(file.read_bytes())
    return cache_root() / "kernels" / digest.hexdigest()[:16]


_FOLDER = cache_folder()
# Numba's cache folder is one setting of the process, and simulations begin in threads.
_LOCK = threading.RLock()


def is_cached() -> bool:
    """Whether a process compiled these kernels before, so that nothing has to be compiled now."""
    return not COMPILED or (_FOLDER / "complete").exists()


def mark_cached() -> None:
    """Remember that a whole simulation ran with these kernels."""
    if COMPILED and not is_cached():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        (_FOLDER / "complete").touch()


def _cached(decorate: Callable[[], Any]) -> Any:
    """Decorate with Numba's cache in our folder; other users of Numba in this process keep theirs."""
    with _LOCK:
        before = _settings.CACHE_DIR
        _settings.CACHE_DIR = str(_FOLDER)
        try:
            return decorate()
        finally:
            _settings.CACHE_DIR = before


def kernel(function: F) -> F:
    """Compile `function` on its first call. It cannot make arrays: see `allocating_kernel`.

    Callers take the kernel in whole. Without Numba's memory management no array is counted up and down, atomically, at
    every call and slice, which takes a third of the time of a step.
    """
    inline = function.__name__ not in ENTRY_POINTS
    return _compile(function, nogil=True, forceinline=inline, _nrt=False)


def allocating_kernel(function: F) -> F:
    """Compile `function` on its first call. It may make arrays."""
    return _compile(function, nogil=True)


def _compile(function: F, **options: Any) -> F:
    if not COMPILED:
        return function
    return _cached(lambda: numba.njit(**options, **_OPTIONS)(function))  # type: ignore[no-any-return]


def array(dtype: str, ndim: int) -> Any:
    """The Numba type of a C-contiguous array, for signatures."""
    return types.Array(getattr(types, dtype), ndim, "C")


class Callback:
    """A kernel that another kernel calls through a handle, so that the caller is compiled once for all of them.

    `handle(function)` gives an int64 that is not 0; `call(handle, *arguments)`, with nine of them, works in compiled
    and in plain Python code. Compiled, the handle is the address of a C function; uncompiled, it counts from 1.
    """

    def __init__(self, result: Any, *arguments: Any) -> None:
        self._signature = result(*arguments)
        self._plain: list[Callable[..., Any]] = []
        self._compiled: dict[Callable[..., Any], Any] = {}
        self.call: Any = _indirect_call(self._signature) if COMPILED else self._call_plain

    def handle(self, function: Callable[..., Any]) -> int:
        function = getattr(function, "py_func", function)
        # Compiled twice at once, the first would be freed while its address is in use.
        with _LOCK:
            if not COMPILED:
                if function not in self._plain:
                    self._plain.append(function)
                return 1 + self._plain.index(function)
            if function not in self._compiled:
                compiled = _cached(lambda: numba.cfunc(self._signature, **_OPTIONS)(function))
                self._compiled[function] = compiled
            return int(self._compiled[function].address)

    def _call_plain(self, handle: int, *arguments: Any) -> Any:
        return self._plain[handle - 1](*arguments)


def _indirect_call(signature: Any) -> Any:
    """An intrinsic that calls the C function at an address: the arguments go by value, as `numba.cfunc` takes them."""

    # Nine separate parameters: a tuple would count a reference to each array up and down, atomically, in every call.
    @intrinsic
    def call(
        typing_context: Any, handle: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any
    ) -> Any:
        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            kinds = [context.get_value_type(kind) for kind in signature.args]
            kind = ir.FunctionType(context.get_value_type(signature.return_type), kinds)
            return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

        return signature.return_type(types.int64, *signature.args), generate

    return call
