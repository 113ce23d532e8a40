"""Binary heaps of routing decisions and of timers.

An entry is (time, kind, number, subject), ordered by the first three. Subject: the request to route, or the row of the
timed event.
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
    a, b = heap[first], heap[second]
    if a.time != b.time:
        return a.time < b.time
    if a.kind != b.kind:
        return a.kind < b.kind
    return a.number < b.number


@kernel
def swap(heap: Records[Timer], first: int, second: int) -> None:
    a, b = heap[first], heap[second]
    a.time, b.time = b.time, a.time
    a.kind, b.kind = b.kind, a.kind
    a.number, b.number = b.number, a.number
    a.subject, b.subject = b.subject, a.subject


@kernel
def earliest(heap: Records[Timer], count: int) -> float:
    """Return the time of the first of `count` entries; inf if there is none."""
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
    """Remove the first entry of a heap that holds `count`; read it before."""
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
