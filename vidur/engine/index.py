"""What routers remember of the prefixes that they placed: an index per router and replica (vidur.prefix_index).

A placed prompt enters the index at once and is held until its request ends; then outputs are added, and the request's
entries are released, the last one first. The entry released longest ago is evicted when the believed capacity is
exceeded. While everything is held, entries beyond the capacity are kept; what does not fit into twice the capacity is
not indexed.
"""

from __future__ import annotations

import math

from vidur.engine.chain import block_key, count_present
from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.kv_events import receive_events
from vidur.engine.pool import NO_KEY, append_free, evict, find_block, insert_key, unlink_free
from vidur.engine.state import State
from vidur.observation import (
    ARRIVAL_SECONDS,
    BACKLOG_SECONDS,
    EVICTION_AGE,
    FREE_TOKENS,
    HELD_TOKENS,
    MATCHED_TOKENS,
    PAIR_SECONDS,
    TOKEN_SECONDS,
    UNCACHED_TOKENS,
)
from vidur.prefix_index import MOST_WALKED_TOKENS

OWN, CORRECTED, ORACLE, EVENTS, UNKNOWN = range(5)
"""Modes: an index of the router's own placements; corrected by the cached tokens that replicas report; the truth; fed
by KV events. UNKNOWN: contents are unknown, or no replica caches them, so nothing ever matches."""

_GROWTH = 1.02
_MOST_GROWTH = 1.9


@kernel
def entry_key(s: State, request: int, entry: int, stride: int) -> int:
    """Return the key of an entry: that of its last block."""
    return block_key(s, request, (entry + 1) * stride - 1)


@kernel
def index_row(s: State, router: int, replica: int) -> int:
    """Return the row of `State.index` that belongs to a router and a replica."""
    return replica if s.index_rules[0].mode == EVENTS else router * len(s.replicas) + replica


@kernel
def take_entry(s: State, row: int, now: float) -> int:
    """Return an entry for a new key: a spare one within the capacity, else the one to evict, else a spare one.

    Returns -1 if all are held.
    """
    pool = s.indexes.pools[row]
    if (pool.used < pool.capacity or pool.free == 0) and pool.spare >= 0:
        entry = pool.spare
        pool.spare = s.indexes.blocks[row, entry].after
        pool.used += 1
        return entry
    entry = pool.head
    if entry >= 0:
        unlink_free(s.indexes, row, entry)
        evict(s.indexes, row, entry, now)
    return entry


@cold_kernel
def forget_first(s: State, row: int, now: float) -> None:
    """Evict the entry released longest ago."""
    pool, entry = s.indexes.pools[row], s.indexes.pools[row].head
    unlink_free(s.indexes, row, entry)
    evict(s.indexes, row, entry, now)
    s.indexes.blocks[row, entry].after = pool.spare
    pool.spare = entry
    pool.used -= 1


@kernel
def hold_entry(s: State, row: int, key: int, now: float) -> bool:
    """Hold the entry of `key`, made if need be. Returns False if there is no room."""
    found = find_block(s.indexes, row, key)
    if found < 0:
        found = take_entry(s, row, now)
        if found < 0:
            return False
        s.indexes.blocks[row, found].ref = 0
        insert_key(s.indexes, row, found, key)
    elif s.indexes.blocks[row, found].ref == 0:
        unlink_free(s.indexes, row, found)
    s.indexes.blocks[row, found].ref += 1
    return True


@kernel
def release_entry(s: State, row: int, key: int, now: float) -> None:
    """Release the entry of `key`, if it was not forgotten."""
    found = find_block(s.indexes, row, key)
    if found < 0:
        return
    entry = s.indexes.blocks[row, found]
    entry.ref -= 1
    if entry.ref == 0:
        entry.used_at = now
        append_free(s.indexes, row, found)


@cold_kernel
def hold_entries(s: State, row: int, request: int, until: int, now: float) -> None:
    """Hold the request's entries up to `until`."""
    prefix, stride = s.prefixes[request], s.index_rules[0].stride
    while prefix.indexed < until and hold_entry(s, row, entry_key(s, request, prefix.indexed, stride), now):
        prefix.indexed += 1


@cold_kernel
def release_entries(s: State, row: int, request: int, now: float) -> None:
    """Release all that the request holds, then evict what exceeds the capacity."""
    prefix, rules, pool = s.prefixes[request], s.index_rules[0], s.indexes.pools[row]
    for i in range(prefix.indexed):
        entry = prefix.indexed - 1 - i if rules.tails_first else i
        release_entry(s, row, entry_key(s, request, entry, rules.stride), now)
    prefix.indexed = 0
    while pool.used > pool.capacity and pool.head >= 0:
        forget_first(s, row, now)


@cold_kernel
def count_contiguous(s: State, row: int, request: int, most: int) -> int:
    """Return how many of the request's first entries are indexed, up to the first that is not."""
    for entry in range(most):
        if find_block(s.indexes, row, entry_key(s, request, entry, s.index_rules[0].stride)) < 0:
            return entry
    return most


@kernel
def update_index(s: State, router: int, replica: int, now: float) -> None:
    """Apply the KV events that have arrived, and forget what has not been used for too long."""
    rules, row = s.index_rules[0], index_row(s, router, replica)
    if rules.mode == EVENTS:
        receive_events(s, replica, now)
    pool = s.indexes.pools[row]
    while pool.head >= 0 and now - s.indexes.blocks[row, pool.head].used_at > rules.ttl:
        forget_first(s, row, now)


@kernel
def entries_within(s: State, replica: int, tokens: int) -> int:
    """Return how many entries of the index `tokens` tokens fill, of those that it looks at."""
    rules = s.index_rules[0]
    width = rules.stride * s.replicas[replica].block_size
    seen = tokens if rules.tails_first == 1 else min(tokens, MOST_WALKED_TOKENS)
    return seen // width


@kernel
def count_matched(s: State, router: int, replica: int, request: int, now: float) -> int:
    """Return the prompt tokens of `request` that the router believes cached: full blocks, at most the prompt - 1."""
    rules, size, prompt = s.index_rules[0], s.replicas[replica].block_size, s.requests[request].prompt
    if rules.mode == UNKNOWN or s.replicas[replica].caching == 0:
        return 0
    if rules.mode == ORACLE:
        return count_present(s, s.cache, replica, request, (prompt - 1) // size, 1) * size
    update_index(s, router, replica, now)
    row, most = index_row(s, router, replica), entries_within(s, replica, prompt - 1)
    if rules.tails_first == 0 or rules.loss > 0.0:
        return count_contiguous(s, row, request, most) * rules.stride * size
    return count_present(s, s.indexes, row, request, most, rules.stride) * rules.stride * size


@cold_kernel
def match_scattered(s: State, request: int, now: float) -> None:
    """Count for every replica the entries that it has, up to the first that none has, as llm-d does."""
    rules, row = s.index_rules[0], s.requests[request]
    columns = s.books.prefix[row.router]
    for replica in range(len(s.replicas)):
        columns[replica, MATCHED_TOKENS] = 0
        update_index(s, row.router, replica, now)
    for entry in range(entries_within(s, 0, row.prompt - 1)):
        key, found = entry_key(s, request, entry, rules.stride), False
        for replica in range(len(s.replicas)):
            if find_block(s.indexes, index_row(s, row.router, replica), key) >= 0:
                columns[replica, MATCHED_TOKENS] += rules.stride * s.replicas[replica].block_size
                found = True
        if not found:
            return


@kernel
def prefill_seconds(s: State, router: int, replica: int, prompt: int, matched: int) -> float:
    """Return seconds of a prefill of which `matched` tokens are cached, alone on the replica."""
    costs, uncached = s.books.prefix[router, replica], prompt - matched
    return uncached * costs[TOKEN_SECONDS] + uncached * (matched + 0.5 * uncached) * costs[PAIR_SECONDS]  # type: ignore[no-any-return]


@kernel
def see_pool(s: State, router: int, replica: int, now: float) -> None:
    """Update the columns that say how full the replica's cache is believed to be."""
    rules, seen, size = s.index_rules[0], s.books.prefix[router, replica], s.replicas[replica].block_size
    if rules.mode == UNKNOWN or s.replicas[replica].caching == 0:
        return
    if rules.mode == ORACLE:
        pool, head = s.cache.pools[replica], s.cache.pools[replica].head
        empty = head >= 0 and s.cache.blocks[replica, head].key == NO_KEY
        seen[HELD_TOKENS] = (pool.capacity - pool.free) * size
        # Blocks without content are at the front of the queue, so their number is not known without a walk.
        seen[FREE_TOKENS] = size if empty else 0
        seen[EVICTION_AGE] = 0.0 if empty or head < 0 else now - s.cache.blocks[replica, head].used_at
        return
    row, width = index_row(s, router, replica), rules.stride * size
    pool = s.indexes.pools[row]
    seen[HELD_TOKENS] = (pool.used - pool.free) * width
    seen[FREE_TOKENS] = (pool.capacity - pool.used) * width
    full = pool.used >= pool.capacity and pool.head >= 0
    seen[EVICTION_AGE] = now - s.indexes.blocks[row, pool.head].used_at if full else 0.0


@cold_kernel
def see_prefixes(s: State, request: int, now: float) -> None:
    """Update what the request's router believes of every replica's cache."""
    router, prompt, rules = s.requests[request].router, s.requests[request].prompt, s.index_rules[0]
    scattered = rules.mode < ORACLE and rules.contiguous == 0 and rules.tails_first == 0
    if scattered:
        match_scattered(s, request, now)
    for replica in range(len(s.replicas)):
        seen = s.books.prefix[router, replica]
        if not scattered:
            seen[MATCHED_TOKENS] = count_matched(s, router, replica, request, now)
        seen[ARRIVAL_SECONDS] = prefill_seconds(s, router, replica, prompt, int(seen[MATCHED_TOKENS]))
        see_pool(s, router, replica, now)


@cold_kernel
def index_placed(s: State, replica: int, request: int, now: float) -> None:
    """Enter the prompt of a request that was placed on `replica`, as `see_prefixes` saw it."""
    row, prefix, rules = s.requests[request], s.prefixes[request], s.index_rules[0]
    seen = s.books.prefix[row.router, replica]
    prefix.matched = int(seen[MATCHED_TOKENS])
    prefix.uncached = row.prompt - prefix.matched
    prefix.prefill_seconds = seen[ARRIVAL_SECONDS]
    seen[UNCACHED_TOKENS] += prefix.uncached
    seen[BACKLOG_SECONDS] += prefix.prefill_seconds
    if rules.mode >= ORACLE:
        return
    width, index = rules.stride * s.replicas[replica].block_size, index_row(s, row.router, replica)
    prefix.used_at = now
    if prefix.matched > 0:
        last = find_block(s.indexes, index, block_key(s, request, prefix.matched // width * rules.stride - 1))
        if last >= 0 and s.indexes.blocks[index, last].ref == 0:
            prefix.used_at = s.indexes.blocks[index, last].used_at
    prefix.indexed = 0
    hold_entries(s, index, request, entries_within(s, replica, row.prompt), now)
    if rules.holds == 0:
        release_entries(s, index, request, now)


@kernel
def index_first_token(s: State, replica: int, request: int) -> None:
    """The request's prefill is over."""
    seen, prefix = s.books.prefix[s.requests[request].router, replica], s.prefixes[request]
    seen[UNCACHED_TOKENS] -= prefix.uncached
    seen[BACKLOG_SECONDS] -= prefix.prefill_seconds


@cold_kernel
def correct_capacity(s: State, row: int, request: int, now: float) -> None:
    """Correct the believed capacity by the cached tokens that the replica reported with an answer.

    If it found fewer than believed, it had evicted a block last used at `used_at`, and so every block used before: what
    is left in the index is what it can hold. If it found more, it holds more than believed.
    """
    prefix, pool = s.prefixes[request], s.indexes.pools[row]
    if prefix.cached < prefix.matched:
        while pool.head >= 0 and s.indexes.blocks[row, pool.head].used_at <= prefix.used_at:
            forget_first(s, row, now)
        pool.capacity = min(pool.capacity, max(pool.used, 1))
    elif pool.evicted_blocks > 0:
        most = int(_MOST_GROWTH * s.indexes.blocks.shape[1] / 2)
        pool.capacity = min(most, math.ceil(pool.capacity * _GROWTH))


@cold_kernel
def index_ended(s: State, replica: int, request: int, now: float) -> None:
    """Add the outputs of a request that has ended, and release its entries."""
    rules, row = s.index_rules[0], s.requests[request]
    if rules.mode >= ORACLE:
        return
    index = index_row(s, row.router, replica)
    if rules.mode == CORRECTED:
        correct_capacity(s, index, request, now)
    if rules.outputs == 1:
        hold_entries(s, index, request, entries_within(s, replica, row.total - 1), now)
    release_entries(s, index, request, now)


@cold_kernel
def clear_index(s: State, router: int, replica: int) -> None:
    """Forget everything about a replica. Its entries all become spare."""
    mode = s.index_rules[0].mode
    if mode in (ORACLE, UNKNOWN):
        return
    if mode == EVENTS:
        s.channels[replica].count = 0
    row = index_row(s, router, replica)
    pool = s.indexes.pools[row]
    s.indexes.slots[row, :] = -1
    entries = s.indexes.blocks.shape[1]
    for i in range(entries):
        s.indexes.blocks[row, i].key = NO_KEY
        s.indexes.blocks[row, i].ref = 0
        s.indexes.blocks[row, i].after = i + 1 if i + 1 < entries else -1
    pool.head = pool.tail = -1
    pool.spare = 0
    pool.free = pool.used = 0
