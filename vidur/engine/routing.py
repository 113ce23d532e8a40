"""The kernel of a router, as the engine calls it."""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from vidur.engine.compile import COMPILED, Callback, array
from vidur.scheduler.global_scheduler import choice

choose_callback = Callback(
    types.int64,
    types.float64,  # now
    array("float64", 2),  # ledger
    array("float64", 2),  # gauges
    array("float64", 2),  # hardware
    array("float64", 1),  # arrival
    array("int64", 1),  # available
    array("float64", 1),  # completions
    array("float64", 1),  # memory
    array("float64", 1),  # draws
)

if COMPILED:
    for helper in (choice.least, choice.expected_output, choice.token_backlog):
        register_jitable(helper)
