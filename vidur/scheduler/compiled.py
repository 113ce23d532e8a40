"""Register the functions that routers share with Numba. Import this before a simulation compiles a router."""

from __future__ import annotations

from numba.extending import register_jitable

from vidur.engine.compile import COMPILED, INNER
from vidur.scheduler.routers import choice, consistent_hash

if COMPILED:
    for helper in (
        choice.least,
        choice.least_at_random,
        choice.longest_matches,
        choice.matched_share,
        choice.expected_output,
        choice.token_backlog,
        consistent_hash.murmur_hash,
        consistent_hash.rehash,
        consistent_hash.furc_bit,
        consistent_hash.furc_hash,
        consistent_hash.ring_hash,
    ):
        register_jitable(**INNER)(helper)
