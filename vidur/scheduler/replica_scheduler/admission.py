"""What several batching policies ask before they admit or order requests."""

from __future__ import annotations

from vidur.engine.arrays import Floats, Ints
from vidur.engine.compile import kernel
from vidur.engine.layout import ADMITTED, ALLOCATED, NUM_BLOCKS, WATERMARK


@kernel
def can_admit(replicas: Ints, replica: int, blocks: int) -> bool:
    """Whether `blocks` can be given to a new request with the watermark kept free.

    An empty replica ignores the watermark: nothing will ever be freed there, so that waiting would never end.
    """
    free = replicas[replica, NUM_BLOCKS] - replicas[replica, ALLOCATED] - blocks
    if replicas[replica, ADMITTED] == 0:
        return free >= 0  # type: ignore[no-any-return]
    return free >= replicas[replica, WATERMARK]  # type: ignore[no-any-return]


@kernel
def sort_by_arrival(ready: Ints, replica: int, count: int, arrived: Floats) -> None:
    """Sort `ready[replica, :count]` by arrival, stably; it is nearly sorted, which insertion is best at."""
    for index in range(1, count):
        request = ready[replica, index]
        at = index
        while at > 0 and arrived[ready[replica, at - 1]] > arrived[request]:
            ready[replica, at] = ready[replica, at - 1]
            at -= 1
        ready[replica, at] = request
