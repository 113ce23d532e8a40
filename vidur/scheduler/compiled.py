"""Register the functions that routers share with Numba. Import this before a simulation compiles a router."""

from __future__ import annotations

from numba.extending import register_jitable

from vidur.engine.compile import COMPILED, INNER
from vidur.scheduler.routers import choice

if COMPILED:
    for helper in (choice.least, choice.expected_output, choice.token_backlog):
        register_jitable(**INNER)(helper)
