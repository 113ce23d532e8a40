"""Closed-loop sessions: a request arrives its think time after the last of the requests that it follows has ended."""

from __future__ import annotations

from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.recording import REFUSED
from vidur.engine.state import State
from vidur.engine.timers import ARRIVED, push


@kernel
def route_later(s: State, request: int, time: float, kind: int) -> None:
    """Queue a routing decision for `request` at `time`, after queued ones of the same time and kind."""
    clock = s.clock[0]
    clock.sequence += 1
    push(s.decisions, clock.num_decisions, time, kind, clock.sequence, request)
    clock.num_decisions += 1


@cold_kernel
def begin_next_turns(s: State, request: int, now: float) -> None:
    """Let the requests arrive that waited for `request` only, which has ended."""
    for i in range(s.following.offsets[request], s.following.offsets[request + 1]):
        child = s.following.children[i]
        turn = s.turns[child]
        turn.left -= 1
        if turn.left == 0 and s.requests[child].status != REFUSED:
            s.requests[child].arrived_at = now + turn.think
            route_later(s, child, now + turn.think, ARRIVED)


@cold_kernel
def refuse_next_turns(s: State, request: int) -> None:
    """Refuse what follows a refused request: its session is over."""
    for i in range(s.following.offsets[request], s.following.offsets[request + 1]):
        child = s.following.children[i]
        if s.requests[child].status != REFUSED:
            s.requests[child].status = REFUSED
            s.clock[0].num_refused += 1
            # The loop does not route it, but refuses what follows it in turn.
            route_later(s, child, s.clock[0].now, ARRIVED)
