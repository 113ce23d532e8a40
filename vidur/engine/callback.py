"""Kernels that other kernels call through handles, so that callers are compiled only once and without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vidur.engine.compile import COMPILED, ENTRY_POINTS, address_of, compile_callback, lock
from vidur.engine.reference import Reference
from vidur.engine.state import STATE


class Callback:
    """A kind of kernel that other kernels call through a handle, so that callers are compiled only once.

    `handle(function)` returns a nonzero int64: the address of a C function, or a number from 1 on if uncompiled.
    `call(handle, arguments)` takes a tuple and works in compiled and plain code. A NamedTuple argument is passed by
    address, so adding fields to it does not affect existing kernels.
    """

    def __init__(self, result: Any, *arguments: Any) -> None:
        self._signature = result(*arguments)
        self._plain: list[Callable[..., Any]] = []
        self._compiled: dict[Callable[..., Any], Any] = {}
        self.call: Any = _indirect_call(self._signature) if COMPILED else self._call_plain

    def handle(self, function: Callable[..., Any]) -> int:
        given, function = function, getattr(function, "py_func", function)
        # Without the lock a second thread could replace a function whose address is in use.
        with lock:
            if not COMPILED:
                if function not in self._plain:
                    self._plain.append(function)
                return 1 + self._plain.index(function)
            if function not in self._compiled:
                if function.__name__ in ENTRY_POINTS:
                    return address_of(given, self._signature)
                self._compiled[function] = compile_callback(self._signature, function)
            return int(self._compiled[function].address)

    def _call_plain(self, handle: int, arguments: tuple[Any, ...]) -> Any:
        return self._plain[handle - 1](*arguments)


def _indirect_call(signature: Any) -> Any:
    """Make an intrinsic that calls the C function at an address, with the calling convention of `numba.cfunc`."""

    @intrinsic
    def call(typing_context: Any, handle: Any, arguments: Any) -> Any:
        def argument(context: Any, builder: Any, kind: Any, value: Any, given: Any) -> Any:
            if not isinstance(kind, Reference) or isinstance(given, Reference):
                return value
            # Numba's memory layout of a NamedTuple of arrays equals that of `vidur.engine.reference.describe`.
            slot = cgutils.alloca_once_value(builder, value)
            return builder.ptrtoint(slot, ir.IntType(64))

        def generate(context: Any, builder: Any, called: Any, values: Any) -> Any:
            kinds = [context.get_value_type(kind) for kind in signature.args]
            function = ir.FunctionType(context.get_value_type(signature.return_type), kinds).as_pointer()
            parts = cgutils.unpack_tuple(builder, values[1], len(kinds))
            passed = [
                argument(context, builder, kind, value, given)
                for kind, value, given in zip(signature.args, parts, called.args[1], strict=True)
            ]
            return builder.call(builder.inttoptr(values[0], function), passed)

        return signature.return_type(types.int64, arguments), generate

    return call


# hook(replica, request, tokens, now, state) -> tokens: what only some simulations do (vidur.engine.hooks). An argument
# that means nothing is 0.
hook_callback = Callback(types.int64, types.int64, types.int64, types.int64, types.float64, STATE)
