"""What only simulations with prefix caches, indexes or later turns do, as callbacks.

The engine's loop calls them through the handles of `State.hooks`, so that a simulation without them does not compile
them. Each takes (replica, request, tokens, now, state) and returns a number of tokens, or 0.
"""

from __future__ import annotations

from typing import Any

from vidur.engine.cache import (
    clear_cache,
    count_lookup,
    cover_tokens,
    find_prefix,
    fits,
    keep_own_blocks,
    release_blocks,
    use_prefix,
)
from vidur.engine.callback import hook_callback
from vidur.engine.index import clear_index, index_ended, index_first_token, index_placed, see_prefixes
from vidur.engine.queues import leave_waiting
from vidur.engine.state import Hooks, State, records
from vidur.engine.turns import begin_next_turns, refuse_next_turns


def admit_prefix(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    """Admit the head of the waiting queue, `request`, with what is cached of it, if all of its tokens fit.

    tokens: the most that it may process next. Returns how many it does, 0 if it was not admitted.
    """
    hits = find_prefix(s, replica, request)
    if not fits(s, replica, request, hits):
        return 0
    count_lookup(s, replica, request, hits)
    leave_waiting(s, replica, request)
    use_prefix(s, replica, request, hits)
    threshold, processed = s.replicas[replica].prefill_threshold, s.requests[request].processed
    chunk = s.requests[request].prefill - processed
    if 0 < threshold < chunk:
        chunk = threshold
    chunk = min(chunk, tokens)
    cover_tokens(s, replica, request, processed + chunk, now)
    return chunk


def cover(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    cover_tokens(s, replica, request, tokens, now)
    return 0


def release_prefix(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    release_blocks(s, replica, request, now)
    return 0


def preempted(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    keep_own_blocks(s, replica, request)
    return 0


def see(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    see_prefixes(s, request, now)
    return 0


def placed(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    index_placed(s, replica, request, now)
    return 0


def first_token(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    index_first_token(s, replica, request)
    return 0


def ended(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    """A request has ended: tell the router's index, and the requests that follow."""
    if s.clock[0].indexed == 1:
        index_ended(s, replica, request, now)
    if s.clock[0].closed_loop == 1:
        begin_next_turns(s, request, now)
    return 0


def refused(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    refuse_next_turns(s, request)
    return 0


def failed(replica: int, request: int, tokens: int, now: float, s: State) -> int:
    """A replica has failed: its cache is empty, and routers know that."""
    if s.replicas[replica].caching == 1:
        clear_cache(s, replica)
    if s.clock[0].indexed == 1:
        for router in range(len(s.books.routed)):
            clear_index(s, router, replica)
    return 0


_OF_CACHES = {
    "admit": admit_prefix,
    "cover": cover,
    "release": release_prefix,
    "preempted": preempted,
    "failed": failed,
}
_OF_INDEXES = {"see": see, "placed": placed, "first_token": first_token, "ended": ended, "failed": failed}
_OF_TURNS = {"ended": ended, "refused": refused}


def make_hooks(caching: bool, indexed: bool, closed_loop: bool) -> Any:
    """Return the record of the handles that such a simulation needs, compiled."""
    hooks: Any = records(Hooks, 1)
    for needed, group in ((caching, _OF_CACHES), (indexed, _OF_INDEXES), (closed_loop, _OF_TURNS)):
        for name, function in group.items() if needed else ():
            hooks[name] = hook_callback.handle(function)
    return hooks
