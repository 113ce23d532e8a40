"""The chain of a request's block keys, and how much of it is present in a cache."""

from __future__ import annotations

from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.pool import find_block
from vidur.engine.state import Cache, State

_FIRST_OWN, _BLOCK_BITS = -3, 22


@kernel
def chain_length(s: State, request: int) -> int:
    """Return how many of the request's blocks have keys that other requests can share."""
    last = s.chains.offsets[request + 1]
    return s.chains.ends[last - 1] if last > s.chains.offsets[request] else 0


@kernel
def run_of_block(s: State, request: int, block: int) -> int:
    """Return the run of the request's chain that contains `block`, which is below `chain_length`."""
    low, high = s.chains.offsets[request], s.chains.offsets[request + 1] - 1
    while low < high:
        middle = (low + high) // 2
        if block < s.chains.ends[middle]:
            high = middle
        else:
            low = middle + 1
    return low  # type: ignore[no-any-return]


@kernel
def run_begin(s: State, request: int, run: int) -> int:
    """Return the first block of a run."""
    return s.chains.ends[run - 1] if run > s.chains.offsets[request] else 0


@kernel
def block_key(s: State, request: int, block: int) -> int:
    """Return the key of a block. Behind the chain it is a negative one that no other request has."""
    if block >= chain_length(s, request):
        return _FIRST_OWN - (request << _BLOCK_BITS | block)
    run = run_of_block(s, request, block)
    return s.chains.keys[run] + block - run_begin(s, request, run)  # type: ignore[no-any-return]


@cold_kernel
def count_present(s: State, cache: Cache, row: int, request: int, most: int, stride: int) -> int:
    """Return how many entries at the start of the request's chain are present, at most `most`.

    An entry stands for `stride` blocks and has the key of the last. The tail of a chain is always evicted before its
    head, so this is a binary search. Only a request that was preempted can find blocks behind the chain: its own.
    """
    low, high = 0, most
    if s.requests[request].restarts == 0:
        high = min(most, chain_length(s, request) // stride)
    while low < high:
        middle = (low + high) // 2
        if find_block(cache, row, block_key(s, request, (middle + 1) * stride - 1)) >= 0:
            low = middle + 1
        else:
            high = middle
    return low
