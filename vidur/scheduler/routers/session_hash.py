"""A session stays on its replica (rendezvous hashing: Thaler and Ravishankar, 1998)."""

from __future__ import annotations

from vidur.observation import ARRIVAL_ORDINAL, ARRIVAL_SESSION, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler

_PRIME = 2147483647


def choose_session_hash(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the available replica with the highest hash of (session, replica), so that losing a replica moves only its
    sessions. A request without a session counts as its own session."""
    session = int(view.arrival[ARRIVAL_SESSION])
    if session < 0:
        session = int(view.arrival[ARRIVAL_ORDINAL])
    best = -1
    highest = -1
    for replica in range(len(view.available)):
        if not view.available[replica]:
            continue
        hashed = (session % _PRIME * 48271 + (replica + 1) * 69621 + 12345) % _PRIME
        for _ in range(3):
            hashed = (hashed ^ (hashed >> 13)) * 16807 % _PRIME
        if hashed > highest:
            highest = hashed
            best = replica
    return best


@GLOBAL_SCHEDULERS.register("session_hash")
class SessionHashScheduler(KernelScheduler):
    choose = staticmethod(choose_session_hash)
    observes = 0
