"""KV events: replicas tell which blocks they have cached and evicted; routers learn of it later, and not always.

Source of the events: vllm-project/vllm 0.32, vllm/distributed/kv_events.py (BlockStored, BlockRemoved and
AllBlocksCleared).
All routers receive the same events, so in this mode they share one index per replica.
"""

from __future__ import annotations

from vidur.engine.compile import cold_kernel, kernel
from vidur.engine.pool import find_block, insert_key, remove_key
from vidur.engine.state import State

STORED, REMOVED = range(2)


@kernel
def spare_entry(s: State, row: int) -> int:
    """Take an entry of the index that holds nothing; -1 if there is none."""
    pool = s.indexes.pools[row]
    entry = pool.spare
    if entry >= 0:
        pool.spare = s.indexes.blocks[row, entry].after
        pool.used += 1
    return entry


@cold_kernel
def apply_first(s: State, replica: int) -> None:
    """Apply the first event of a replica that is still on its way to the index, and drop it."""
    channel = s.channels[replica]
    event = s.kv_events[replica, channel.first]
    channel.first = (channel.first + 1) % s.kv_events.shape[1]
    channel.count -= 1
    entry = find_block(s.indexes, replica, event.key)
    if event.kind == STORED:
        if entry < 0:
            entry = spare_entry(s, replica)
            if entry < 0:
                return
            s.indexes.blocks[replica, entry].ref = 0
            insert_key(s.indexes, replica, entry, event.key)
        s.indexes.blocks[replica, entry].ref += 1
    elif entry >= 0:
        s.indexes.blocks[replica, entry].ref -= 1
        if s.indexes.blocks[replica, entry].ref == 0:
            remove_key(s.indexes, replica, entry)
            s.indexes.blocks[replica, entry].after = s.indexes.pools[replica].spare
            s.indexes.pools[replica].spare = entry
            s.indexes.pools[replica].used -= 1


@kernel
def receive_events(s: State, replica: int, now: float) -> None:
    """Apply all events of a replica that have arrived by `now`."""
    channel, delay = s.channels[replica], s.index_rules[0].delay
    while channel.count > 0 and s.kv_events[replica, channel.first].time + delay <= now:
        apply_first(s, replica)


@cold_kernel
def publish(s: State, replica: int, kind: int, key: int, time: float) -> None:
    """Send an event to the routers, unless it gets lost. If too many are on their way, the first arrives at once."""
    channel = s.channels[replica]
    if len(s.event_draws) > 0:
        channel.draws = (channel.draws + 1) % len(s.event_draws)
        if s.event_draws[channel.draws] < s.index_rules[0].loss:
            return
    size = s.kv_events.shape[1]
    if channel.count == size:
        apply_first(s, replica)
    event = s.kv_events[replica, (channel.first + channel.count) % size]
    event.time, event.key, event.kind = time, key, kind
    channel.count += 1
