"""The kernel of a router, as the engine calls it."""

from __future__ import annotations

from numba import types

from vidur.engine.compile import Callback, array

choose_callback = Callback(
    types.int64,
    array("float64", 2),  # ledger
    array("float64", 2),  # gauges
    array("float64", 2),  # hardware
    array("float64", 1),  # arrival
    array("int64", 1),  # available
    array("float64", 1),  # completions
    array("float64", 1),  # memory
    array("float64", 1),  # draws
)
