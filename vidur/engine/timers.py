"""Heaps of what happens at a time: routing decisions, and timed things.

An entry is (time, kind, number, subject). The earliest comes first; of those at one time the lowest kind, and of one
kind the lowest number. Subject is the request to be routed, or the row of the timed event.
"""

from __future__ import annotations

import numpy as np

from vidur.engine.compile import kernel
from vidur.engine.state import Records, Timer

# The kinds of decisions: a request whose replica failed is routed before those that arrive at the same instant.
REROUTED, ARRIVED = range(2)
# The kinds of timers: gauges are read before an event of the same instant changes anything.
GAUGES, EVENT = range(2)


@kernel
def is_earlier(heap: Records[Timer], first: int, second: int) -> bool:
    one, other = heap[first], heap[second]
    if one.time != other.time:
        return one.time < other.time
    if one.kind != other.kind:
        return one.kind < other.kind
    return one.number < other.number


@kernel
def swap(heap: Records[Timer], first: int, second: int) -> None:
    one, other = heap[first], heap[second]
    one.time, other.time = other.time, one.time
    one.kind, other.kind = other.kind, one.kind
    one.number, other.number = other.number, one.number
    one.subject, other.subject = other.subject, one.subject


@kernel
def earliest(heap: Records[Timer], count: int) -> float:
    """When the first of `count` entries is due; inf if there is none."""
    return heap[0].time if count > 0 else np.inf


@kernel
def push(heap: Records[Timer], count: int, time: float, kind: int, number: int, subject: int) -> None:
    """Add an entry to a heap that holds `count`."""
    entry = heap[count]
    entry.time, entry.kind, entry.number, entry.subject = time, kind, number, subject
    child = count
    while child > 0 and is_earlier(heap, child, (child - 1) // 2):
        swap(heap, child, (child - 1) // 2)
        child = (child - 1) // 2


@kernel
def pop(heap: Records[Timer], count: int) -> None:
    """Take the first entry off a heap that holds `count`; read it before."""
    last = count - 1
    swap(heap, 0, last)
    parent = 0
    while 2 * parent + 1 < last:
        child = 2 * parent + 1
        if child + 1 < last and is_earlier(heap, child + 1, child):
            child += 1
        if not is_earlier(heap, child, parent):
            break
        swap(heap, parent, child)
        parent = child
