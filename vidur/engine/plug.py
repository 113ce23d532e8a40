"""Plug batchers and routers into the engine: it calls their kernels through handles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vidur.engine.compile import COMPILED, ENTRY_POINTS, address_of, compile_callback, lock
from vidur.engine.queues import FCFS
from vidur.engine.reference import Reference, declare
from vidur.engine.state import STATE, Floats, Ints
from vidur.observation import View
from vidur.registry import Registry

FOREVER = 1 << 40


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


def _array(dtype: str, ndim: int) -> Any:
    return types.Array(getattr(types, dtype), ndim, "C")


# form_batch(replica, now, slot, state) -> (batch size, repeats)
form_batch_callback = Callback(
    types.UniTuple(types.int64, 2),
    types.int64,
    types.float64,
    types.int64,
    STATE,
)

_NOTHING = np.zeros((0, 0))
VIEW = declare(View(0.0, _NOTHING, _NOTHING, _NOTHING, np.zeros(0), np.zeros(0, np.int64), np.zeros(0), _NOTHING))

# choose(view, memory, draws) -> replica
choose_callback = Callback(types.int64, VIEW, _array("float64", 1), _array("float64", 1))

ChooseKernel = Callable[[View, Floats, Floats], int]


@dataclass(frozen=True)
class Batcher:
    """A batching policy: its kernel and its properties.

    form_batch(replica, now, slot, state) -> (batch size, repeats) is called when fewer batches are in flight than the
    replica has pipeline stages. It moves requests from `state.ready[replica, :replicas[replica].ready]` and from the
    waiting queue (with vidur.engine.queues.admit) into `state.members[replica, slot]`, with the tokens that each
    processes, and allocates and frees KV-cache blocks. repeats: how many successive calls would form this same batch
    while all its requests decode, none finishes, none arrives in an empty waiting queue and blocks suffice. 1 is always
    correct; return FOREVER if nothing else can change the batch.

    limits(scheduler configuration, memory plan, pipeline stages): a dict of fields of vidur.engine.plan.ReplicaPlan.
    grows: requests take blocks as they decode; otherwise all are reserved at admission. chunked: a prefill may span
    several iterations. hold_until_batch_ends: a finished request's blocks stay allocated until its batch ends. order:
    of the waiting queue (vidur.engine.queues).
    """

    form_batch: Callable[..., Any]
    limits: Callable[[Any, Any, int], dict[str, int]]
    grows: bool
    chunked: bool
    hold_until_batch_ends: bool = False
    order: int = FCFS


BATCHERS: Registry[Batcher] = Registry("replica scheduler")

__all__ = ["BATCHERS", "FOREVER", "Batcher", "ChooseKernel", "Floats", "Ints", "choose_callback", "form_batch_callback"]
