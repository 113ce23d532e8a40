"""Pass NamedTuples of arrays to compiled code by one address.

Python keeps the arrays of a simulation in NamedTuples (vidur.engine.state). A table of words beside them holds Numba's
descriptor of each array; a kernel takes the table's address, an int64, and loads the descriptors it uses. One argument
thus replaces forty arrays, adding an array leaves existing callbacks valid, and calling a kernel from Python costs
0.3 us. Uncompiled code gets the NamedTuple itself in place of the address.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, register_model
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

from vidur.engine.compile import COMPILED

T = TypeVar("T")

_WORD = ir.IntType(64)
# By declared NamedTuple class: the first word and the type of each field.
_LAYOUTS: dict[type, dict[str, tuple[int, Any]]] = {}


class Reference(types.Type):
    """The Numba type of a NamedTuple's address; fields are read as from the NamedTuple itself."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        super().__init__(name=f"Reference({cls.__module__}.{cls.__qualname__})")


def declare(example: Any) -> Reference:
    """Declare the class of the NamedTuple `example`, whose fields are arrays, numbers and NamedTuples of these.

    Every instance must have fields of the same types, and contiguous arrays.
    """
    layout: dict[str, tuple[int, Any]] = {}
    first = 0
    for name, value in zip(example._fields, example, strict=True):
        kind = declare(value) if hasattr(value, "_fields") else numba.typeof(value)
        layout[name] = (first, kind)
        first += _size(kind)
    _LAYOUTS[type(example)] = layout
    return Reference(type(example))


def _size(kind: Any) -> int:
    """Return the words that a field takes: Numba's array structure, or one for a number."""
    if isinstance(kind, Reference):
        return sum(_size(member) for _, member in _LAYOUTS[kind.cls].values())
    return 5 + 2 * kind.ndim if isinstance(kind, types.Array) else 1


def describe(value: Any) -> NDArray[np.int64]:
    """Return the words that describe a NamedTuple of arrays; valid while its arrays live."""
    return np.array(_words(value), np.int64)


def _words(value: Any) -> list[int]:
    if hasattr(value, "_fields"):
        return [word for part in value for word in _words(part)]
    assert value.flags.c_contiguous, "compiled code takes the arrays to be contiguous"
    return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]


def opener(kind: Reference) -> Any:
    """Return a function that kernels call to turn an address into the NamedTuple."""
    if not COMPILED:
        return lambda address: address

    @intrinsic
    def open_reference(typing_context: Any, address: Any) -> Any:
        return kind(types.int64), lambda context, builder, signature, values: values[0]

    return open_reference


if COMPILED:

    @register_model(Reference)
    class _ReferenceModel(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, _WORD)  # type: ignore[no-untyped-call]

    @infer_getattr
    class _ReferenceFields(AttributeTemplate):
        key = Reference

        def generic_resolve(self, kind: Reference, name: str) -> Any:  # type: ignore[override]
            field = _LAYOUTS[kind.cls].get(name)
            return None if field is None else field[1]

    @lower_getattr_generic(Reference)  # type: ignore[untyped-decorator]
    def _load_field(context: Any, builder: Any, kind: Reference, value: Any, name: str) -> Any:
        first, member = _LAYOUTS[kind.cls][name]
        if isinstance(member, Reference):
            return builder.add(value, _WORD(8 * first))

        def load(word: int, as_type: Any = _WORD) -> Any:
            loaded = builder.load(builder.inttoptr(builder.add(value, _WORD(8 * word)), as_type.as_pointer()))
            # Kernels never change the words, so LLVM may load each only once.
            loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
            return loaded

        if not isinstance(member, types.Array):
            return load(first, context.get_value_type(member))
        item = context.get_data_type(member.dtype)
        array = context.make_array(member)(context, builder)
        populate_array(
            array,
            data=load(first + 4, item.as_pointer()),
            shape=[load(first + 5 + axis) for axis in range(member.ndim)],
            strides=[load(first + 5 + member.ndim + axis) for axis in range(member.ndim)],
            itemsize=_WORD(context.get_abi_sizeof(item)),
            meminfo=None,
        )
        return array._getvalue()
