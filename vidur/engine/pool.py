"""The blocks of one prefix cache: a hash table from keys to blocks, and a queue of the blocks that can be taken.

Every operation takes the cache, a row of it (a replica, or a router's index of one) and constant time. Blocks of the
same key form a ring, in order of insertion; the hash table holds the first of them.
"""

from __future__ import annotations

from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.state import Cache

NO_KEY, PRIVATE_KEY = -1, -2
"""Keys of a block without content, and of one whose content no other request shares: nobody looks for it. Lower keys
are those of blocks of one request only (vidur.engine.chain)."""

_NEIGHBOURS = 15


@kernel
def home_slot(key: int, mask: int) -> int:
    """Return the slot at which the search for `key` begins.

    Sixteen consecutive keys, those of a piece of a prompt, begin in neighbouring slots: one line of the CPU's cache.
    """
    group = key >> 4
    mixed = ((group ^ (group >> 31)) & 0x7FFFFFFF) * 0x2C1B3C6D
    return ((mixed >> 16) << 4 | (key & _NEIGHBOURS)) & mask


@kernel
def find_slot(cache: Cache, row: int, key: int) -> int:
    """Return the slot that holds the first block of `key`, or the empty slot where it would be."""
    mask = cache.pools[row].mask
    slot = home_slot(key, mask)
    while cache.slots[row, slot] >= 0 and cache.blocks[row, cache.slots[row, slot]].key != key:
        slot = (slot + 1) & mask
    return slot


@cold_kernel
def find_block(cache: Cache, row: int, key: int) -> int:
    """Return the first block of `key`, or -1."""
    return cache.slots[row, find_slot(cache, row, key)]  # type: ignore[no-any-return]


@cold_kernel
def insert_key(cache: Cache, row: int, block: int, key: int) -> None:
    """Give `block`, which has no key, a key that can be found, behind other blocks of the same key."""
    entry = cache.blocks[row, block]
    entry.key = key
    slot = find_slot(cache, row, key)
    first = cache.slots[row, slot]
    if first < 0:
        cache.slots[row, slot] = block
        entry.twin_before = block
        entry.twin_after = block
        return
    last = cache.blocks[row, first].twin_before
    entry.twin_before = last
    entry.twin_after = first
    cache.blocks[row, last].twin_after = block
    cache.blocks[row, first].twin_before = block


@kernel
def empty_slot(cache: Cache, row: int, slot: int) -> None:
    """Empty a slot, and move up what was displaced by it (linear probing, Knuth's algorithm 6.4 R)."""
    mask = cache.pools[row].mask
    hole = slot
    slot = (slot + 1) & mask
    while cache.slots[row, slot] >= 0:
        home = home_slot(cache.blocks[row, cache.slots[row, slot]].key, mask)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            cache.slots[row, hole] = cache.slots[row, slot]
            hole = slot
        slot = (slot + 1) & mask
    cache.slots[row, hole] = -1


@kernel
def remove_key(cache: Cache, row: int, block: int) -> None:
    """Take the key of `block` away, so that it is not found any more."""
    entry = cache.blocks[row, block]
    if entry.key != NO_KEY and entry.key != PRIVATE_KEY:
        slot = find_slot(cache, row, entry.key)
        if entry.twin_after == block:
            empty_slot(cache, row, slot)
        else:
            if cache.slots[row, slot] == block:
                cache.slots[row, slot] = entry.twin_after
            cache.blocks[row, entry.twin_before].twin_after = entry.twin_after
            cache.blocks[row, entry.twin_after].twin_before = entry.twin_before
    entry.key = NO_KEY


@kernel
def link_free(cache: Cache, row: int, block: int, before: int, after: int) -> None:
    """Put `block` into the free queue between two neighbours; -1: it becomes an end."""
    pool, entry = cache.pools[row], cache.blocks[row, block]
    entry.before = before
    entry.after = after
    if before < 0:
        pool.head = block
    else:
        cache.blocks[row, before].after = block
    if after < 0:
        pool.tail = block
    else:
        cache.blocks[row, after].before = block
    pool.free += 1


@kernel
def append_free(cache: Cache, row: int, block: int) -> None:
    link_free(cache, row, block, cache.pools[row].tail, -1)


@kernel
def prepend_free(cache: Cache, row: int, block: int) -> None:
    link_free(cache, row, block, -1, cache.pools[row].head)


@kernel
def unlink_free(cache: Cache, row: int, block: int) -> None:
    """Take `block` out of the free queue."""
    pool, entry = cache.pools[row], cache.blocks[row, block]
    if entry.before < 0:
        pool.head = entry.after
    else:
        cache.blocks[row, entry.before].after = entry.after
    if entry.after < 0:
        pool.tail = entry.before
    else:
        cache.blocks[row, entry.after].before = entry.before
    pool.free -= 1


@cold_kernel
def evict(cache: Cache, row: int, block: int, now: float) -> None:
    """Lose the content of `block`, if it has any, and count it."""
    pool, entry = cache.pools[row], cache.blocks[row, block]
    if entry.key != NO_KEY:
        pool.evicted_blocks += 1
        pool.evicted_age += now - entry.used_at
        remove_key(cache, row, block)


@kernel
def clear_pool(cache: Cache, row: int) -> None:
    """Empty every block and put all of `capacity` in the free queue, in order."""
    pool = cache.pools[row]
    cache.slots[row, :] = -1
    for block in range(pool.capacity):
        entry = cache.blocks[row, block]
        entry.key = NO_KEY
        entry.ref = 0
        entry.before = block - 1
        entry.after = block + 1
    cache.blocks[row, pool.capacity - 1].after = -1
    pool.head = 0
    pool.tail = pool.capacity - 1
    pool.free = pool.capacity
    pool.rows = cache.free_tables.shape[1]
    for i in range(pool.rows):
        cache.free_tables[row, i] = pool.rows - 1 - i
