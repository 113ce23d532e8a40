"""Build the parts of the state that hold contents of requests, prefix caches, routers' indexes and turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vidur.engine.index import EVENTS, ORACLE, UNKNOWN
from vidur.engine.plan import EngineOptions, ReplicaPlan
from vidur.engine.pool import NO_KEY
from vidur.engine.state import (
    Block,
    Cache,
    Chains,
    Channel,
    Following,
    IndexRules,
    Ints,
    KvEvent,
    Pool,
    Prefix,
    Turn,
    no_cache,
    records,
)

if TYPE_CHECKING:
    from vidur.request_generator.request_table import RequestTable


# Events that a replica may have under way beside one for each of its blocks.
_BURST = 1 << 16


def _no_numbers() -> Ints:
    return np.zeros(0, np.int64)


def known(table: RequestTable, plans: list[ReplicaPlan]) -> bool:
    """Whether any replica caches prefixes of these requests."""
    return table.content is not None and any(plan.caching for plan in plans)


def make_chains(table: RequestTable, plans: list[ReplicaPlan]) -> Chains:
    """Return the requests' chains of keys for the block size of the caching replicas."""
    sizes = {plan.block_size for plan in plans if plan.caching}
    if table.content is None or not sizes:
        return Chains(_no_numbers(), _no_numbers(), _no_numbers())
    assert len(sizes) == 1, "replicas that cache prefixes have blocks of one size"
    blocks = table.content.blocks(sizes.pop())
    return Chains(*(np.ascontiguousarray(part) for part in (blocks.offsets, blocks.keys, blocks.ends)))


def make_cache(table: RequestTable, plans: list[ReplicaPlan]) -> Cache:
    """Return the replicas' caches, all blocks free; without blocks if no replica caches."""
    if not any(plan.caching for plan in plans):
        return no_cache()
    assert table.content is not None, "only requests of known content can be cached"
    totals = table.num_prefill_tokens + table.num_decode_tokens
    longest = max(min(-(-int(totals.max(initial=1)) // plan.block_size), plan.num_blocks) for plan in plans)
    capacities = np.array([plan.num_blocks if plan.caching else 0 for plan in plans])
    rows = max(plan.max_admitted for plan in plans) + 1
    cache = _empty_cache(capacities, int(capacities.max()), rows, longest)
    pools, blocks = cache.pools, cache.blocks
    numbers = np.arange(blocks.shape[1], dtype=np.int32)
    every: Any = blocks
    every["before"], every["after"] = numbers - 1, numbers + 1
    for replica, capacity in enumerate(capacities):
        if capacity:
            blocks[replica, int(capacity) - 1].after = -1
            pools[replica].tail, pools[replica].free = capacity - 1, capacity
    return cache


def make_index(table: RequestTable, plans: list[ReplicaPlan], options: EngineOptions) -> Cache:
    """Return the routers' empty indexes, with room for twice the believed capacity."""
    if options.index is None or options.index.mode in (ORACLE, UNKNOWN) or not known(table, plans):
        return no_cache()
    rules, stride = options.index.options, _stride(plans, options)
    capacities = np.array(
        [max(1, rules.capacity_blocks(plan.num_blocks * plan.block_size, stride * plan.block_size)) for plan in plans]
    )
    # No more entries are ever made than there are blocks of requests.
    totals = table.num_prefill_tokens + table.num_decode_tokens
    most = int((totals // (stride * plans[0].block_size)).sum()) + 1
    routers = len(np.atleast_2d(options.memory))
    cache = _empty_cache(np.tile(capacities, routers), min(2 * int(capacities.max()), most), 0, 0)
    every: Any = cache.blocks
    every["after"] = np.arange(1, cache.blocks.shape[1] + 1, dtype=np.int32)
    every["after"][:, -1] = -1
    pools: Any = cache.pools
    pools["head"] = pools["tail"] = -1
    return cache


def _empty_cache(capacities: Ints, blocks: int, rows: int, longest: int) -> Cache:
    """Return a cache of so many blocks each, none with a key, and so many tables of `longest` blocks."""
    size = 1 << max(4, (2 * blocks - 1).bit_length())
    pools: Any = records(Pool, len(capacities))
    pools["capacity"], pools["mask"], pools["rows"] = capacities, size - 1, rows
    entries: Any = records(Block, len(capacities), blocks)
    entries["key"] = NO_KEY
    return Cache(
        pools=pools,
        blocks=entries,
        slots=np.full((len(capacities), size), -1, np.int32),
        tables=np.zeros((len(capacities), rows, longest), np.int32),
        free_tables=np.tile(np.arange(rows - 1, -1, -1, dtype=np.int32), (len(capacities), 1)),
    )


def _stride(plans: list[ReplicaPlan], options: EngineOptions) -> int:
    """Return a replica's blocks per entry of the index. KV events are of single blocks."""
    assert options.index is not None
    if options.index.mode == EVENTS:
        return 1
    return max(1, options.index.options.block_tokens // plans[0].block_size)


def make_rules(table: RequestTable, plans: list[ReplicaPlan], options: EngineOptions) -> Any:
    """Return the rules by which routers index prefixes."""
    rules: Any = records(IndexRules, 1)
    if options.index is not None:
        row, chosen = rules[0], options.index.options
        row.mode = options.index.mode if known(table, plans) else UNKNOWN
        row.stride, row.ttl = _stride(plans, options), chosen.ttl
        row.delay, row.loss = options.index.delay, options.index.loss
        row.outputs, row.holds = int(chosen.outputs), int(chosen.holds)
        row.contiguous = int(chosen.contiguous)
        row.tails_first = int(chosen.tails_first or row.mode == EVENTS)
    return rules


def make_channels(plans: list[ReplicaPlan], events: bool) -> tuple[Any, Any]:
    """Return the channels of KV events, and room for the events on their way, if replicas send any."""
    if not events:
        return records(Channel, 0), records(KvEvent, 0, 0)
    return records(Channel, len(plans)), records(KvEvent, len(plans), max(plan.num_blocks for plan in plans) + _BURST)


def make_prefixes(table: RequestTable, plans: list[ReplicaPlan], options: EngineOptions) -> Any:
    """Return a record per request; none if neither replicas nor routers need them."""
    needed = options.index is not None or known(table, plans)
    prefixes: Any = records(Prefix, len(table) if needed else 0)
    prefixes["cached"] = -1
    return prefixes


def make_following(table: RequestTable) -> Following:
    """Return which requests follow which."""
    if table.turns is None:
        return Following(_no_numbers(), _no_numbers())
    return Following(np.ascontiguousarray(table.turns.offsets), np.ascontiguousarray(table.turns.children))


def make_turns(table: RequestTable) -> Any:
    """Return for each request what it waits for; empty if all arrive by the clock."""
    if table.turns is None:
        return records(Turn, 0)
    turns: Any = records(Turn, len(table))
    turns["parents"] = turns["left"] = table.turns.num_parents()
    turns["think"] = table.turns.think
    return turns
