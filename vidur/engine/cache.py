"""The prefix cache of a replica, as vLLM's: full blocks are found by their content until they are used again.

Source of the behaviour: vllm-project/vllm 0.32, vllm/v1/core/{block_pool,kv_cache_manager}.py, for one cache group of
full attention. A block gets its key when it is scheduled to be filled. Releasing a request puts its blocks into the
free queue, last block first: those with a key at the back, the others at the front. Blocks are taken from the front,
and only then lose their content.
"""

from __future__ import annotations

from vidur.engine.chain import block_key, chain_length, count_present, run_begin, run_of_block
from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.kv_events import REMOVED, STORED, publish
from vidur.engine.pool import (
    NO_KEY,
    PRIVATE_KEY,
    append_free,
    clear_pool,
    evict,
    find_block,
    insert_key,
    prepend_free,
    unlink_free,
)
from vidur.engine.state import State


@kernel
def find_prefix(s: State, replica: int, request: int) -> int:
    """Return how many blocks of a waiting request are cached. At least one token is left to compute."""
    most = (s.requests[request].prefill - 1) // s.replicas[replica].block_size
    return count_present(s, s.cache, replica, request, most, 1)


@cold_kernel
def count_unused(s: State, replica: int, request: int, blocks: int) -> int:
    """Return how many of the request's first `blocks` blocks, all cached, no request uses."""
    unused = 0
    for block in range(blocks):
        found = find_block(s.cache, replica, block_key(s, request, block))
        if s.cache.blocks[replica, found].ref == 0:
            unused += 1
    return unused


@kernel
def fits(s: State, replica: int, request: int, hits: int) -> bool:
    """Whether the free blocks suffice for all tokens of a waiting request of which `hits` blocks are cached.

    Hits that no request uses are free blocks themselves, so they count as needed.
    """
    free = s.cache.pools[replica].free
    total = -(-s.requests[request].prefill // s.replicas[replica].block_size)
    if total <= free:
        return True
    return total - hits <= free and total - hits + count_unused(s, replica, request, hits) <= free


@cold_kernel
def use_prefix(s: State, replica: int, request: int, hits: int) -> None:
    """Give an admitted request a table of blocks and its first `hits` blocks, which are cached."""
    cache, prefix, row = s.cache, s.prefixes[request], s.replicas[replica]
    pool = cache.pools[replica]
    pool.rows -= 1
    prefix.table = cache.free_tables[replica, pool.rows]
    for block in range(hits):
        found = find_block(cache, replica, block_key(s, request, block))
        entry = cache.blocks[replica, found]
        if entry.ref == 0:
            unlink_free(cache, replica, found)
        entry.ref += 1
        cache.tables[replica, prefix.table, block] = found
    s.requests[request].blocks = hits
    s.requests[request].processed = hits * row.block_size
    prefix.named = hits
    row.allocated = pool.capacity - pool.free


@cold_kernel
def take_block(s: State, replica: int, request: int, now: float) -> None:
    """Append a free block to the request's table. It loses its former content."""
    cache, row = s.cache, s.requests[request]
    block = cache.pools[replica].head
    assert block >= 0
    unlink_free(cache, replica, block)
    if s.clock[0].kv_events == 1 and cache.blocks[replica, block].key >= 0:
        publish(s, replica, REMOVED, cache.blocks[replica, block].key, now)
    evict(cache, replica, block, now)
    cache.blocks[replica, block].ref = 1
    cache.tables[replica, s.prefixes[request].table, row.blocks] = block
    row.blocks += 1


@cold_kernel
def name_blocks(s: State, replica: int, request: int, until: int) -> None:
    """Give keys to the request's blocks up to `until`, all of them full."""
    cache, prefix = s.cache, s.prefixes[request]
    block, shared = prefix.named, min(until, chain_length(s, request))
    while block < shared:
        run = run_of_block(s, request, block)
        key, begin, end = s.chains.keys[run], run_begin(s, request, run), min(s.chains.ends[run], shared)
        while block < end:
            insert_key(cache, replica, cache.tables[replica, prefix.table, block], key + block - begin)
            if s.clock[0].kv_events == 1:
                publish(s, replica, STORED, key + block - begin, s.next_time[replica])
            block += 1
    while block < until:
        cache.blocks[replica, cache.tables[replica, prefix.table, block]].key = PRIVATE_KEY
        block += 1
    prefix.named = max(prefix.named, until)


@cold_kernel
def keep_own_blocks(s: State, replica: int, request: int) -> None:
    """Let a request that is about to be preempted find its blocks again that no other request shares."""
    cache, prefix = s.cache, s.prefixes[request]
    for block in range(chain_length(s, request), prefix.named):
        number = cache.tables[replica, prefix.table, block]
        if cache.blocks[replica, number].key == PRIVATE_KEY:
            insert_key(cache, replica, number, block_key(s, request, block))


@kernel
def cover_tokens(s: State, replica: int, request: int, tokens: int, now: float) -> None:
    """Take the blocks for the request's first `tokens` tokens, and give keys to those that they fill."""
    row = s.replicas[replica]
    needed, full = -(-tokens // row.block_size), tokens // row.block_size
    if needed > s.requests[request].blocks:
        while s.requests[request].blocks < needed:
            take_block(s, replica, request, now)
        row.allocated = s.cache.pools[replica].capacity - s.cache.pools[replica].free
    if full > s.prefixes[request].named:
        name_blocks(s, replica, request, full)


@cold_kernel
def release_blocks(s: State, replica: int, request: int, now: float) -> None:
    """Release the request's blocks, the last one first."""
    cache, prefix, row = s.cache, s.prefixes[request], s.requests[request]
    pool = cache.pools[replica]
    for i in range(row.blocks):
        block = cache.tables[replica, prefix.table, row.blocks - 1 - i]
        entry = cache.blocks[replica, block]
        entry.ref -= 1
        if entry.ref == 0:
            entry.used_at = now
            if entry.key == NO_KEY:
                prepend_free(cache, replica, block)
            else:
                append_free(cache, replica, block)
    row.blocks = 0
    cache.free_tables[replica, pool.rows] = prefix.table
    pool.rows += 1
    s.replicas[replica].allocated = pool.capacity - pool.free


@kernel
def count_lookup(s: State, replica: int, request: int, hits: int) -> None:
    """Count the prompt tokens of a request at its first admission, as vLLM's prefix_cache_queries and _hits do."""
    pool, prefix = s.cache.pools[replica], s.prefixes[request]
    if prefix.cached >= 0:
        return
    prefix.cached = hits * s.replicas[replica].block_size
    pool.query_tokens += s.requests[request].prompt
    pool.hit_tokens += prefix.cached


@cold_kernel
def clear_cache(s: State, replica: int) -> None:
    """Empty the replica's cache and blocks."""
    clear_pool(s.cache, replica)
