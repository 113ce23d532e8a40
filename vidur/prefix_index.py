"""What a router remembers of the prefixes that it placed: the settings of its index, and the index in plain Python.

This module imports neither numba nor torch: a router in front of real replicas uses it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vidur.observation import EVICTION_AGE, FREE_TOKENS, HELD_TOKENS, MATCHED_TOKENS, PREFIX_COLUMNS, Floats

# An index that is not tails_first looks at this many tokens of a chain, as llm-d's.
MOST_WALKED_TOKENS = 131_072
# The keys at its multiples in a chain are few enough to stay in a processor's cache: to look up one
# among all takes several times as long.
ANCHOR_BLOCKS = 32


@dataclass(frozen=True)
class IndexOptions:
    """How a router's index of one replica differs from the replica's own cache; the defaults follow vLLM.

    block_tokens: tokens of a block; 0: the replica's. capacity_factor: believed capacity relative to the real one.
    capacity_tokens: believed capacity of a replica in tokens; 0: by the factor. outputs: whether outputs are added when
    a request ends. holds: whether blocks of outstanding requests cannot be evicted. tails_first: whether a chain's tail
    is evicted before its head, or its head first. contiguous: whether a match ends at the first block that a replica
    lacks, or counts all its blocks up to the first that every replica lacks (as llm-d's); tails_first makes them equal.
    ttl: seconds after which an unused block is forgotten.
    """

    block_tokens: int = 0
    capacity_factor: float = 1.0
    capacity_tokens: int = 0
    outputs: bool = True
    holds: bool = True
    tails_first: bool = True
    contiguous: bool = True
    ttl: float = math.inf

    def capacity_blocks(self, capacity_tokens: int, block_tokens: int) -> int:
        """Return the believed capacity, in blocks, of a replica whose cache holds `capacity_tokens`. block_tokens: the
        tokens of a block of the index."""
        return (self.capacity_tokens or int(capacity_tokens * self.capacity_factor)) // block_tokens


class PrefixIndex:
    """What a router believes to be in the prefix caches of its replicas.

    A request's content is a chain of blocks: `keys`, integers of at least 0 which identify a block and all before it,
    and behind them `private` blocks that no other request shares. Times must not decrease. For each replica there is

    - a count of outstanding requests for each key, and of private blocks of outstanding requests: these are *held*;
    - a queue, oldest first, of blocks that are not held, with the time at which each one joined it.

    A key is *present* on a replica if it is held or in the queue. Blocks used = held (each key once) + in the queue.

    - place: each key's count rises by 1; a key in the queue leaves it, one that is not present becomes present. The
      private blocks are held.
    - end: with `outputs`, the chain given now replaces the one placed, of which it is a continuation: what it adds is
      placed too; without, the chain placed stays. Then each key's count falls by 1, and those at 0 join the queue, as
      do the private blocks; tails_first: private blocks, then keys from the last to the first; else keys from first to
      last, then private blocks.
    - Without `holds`, nothing is held: place puts the whole chain at the end of the queue in that order, taking keys
      out of it first; with `outputs`, end does the same to the chain given, of whose private blocks only those beyond
      the ones placed join.
    - Before each operation, blocks that joined a queue more than `ttl` seconds ago leave it. After each, blocks leave
      the old end of the replica's queue until those used are at most its capacity or the queue is empty. So a replica
      whose blocks are all held can use more than its capacity.
    - Not tails_first, all operations see a chain's first MOST_WALKED_TOKENS only; private blocks beyond are dropped.

    tails_first makes presence monotone: the replicas that hold a block hold all blocks before it in its chain. So a
    match is a binary search, and one look-up per step serves all replicas, as a key maps to the set of its holders.
    """

    def __init__(self, capacities: Sequence[int], block_tokens: int, options: IndexOptions | None = None) -> None:
        """capacities: blocks of each replica. block_tokens: tokens of a block, the same everywhere."""
        self.options = options or IndexOptions()
        self.block_tokens = block_tokens
        self._longest = math.inf if self.options.tails_first else MOST_WALKED_TOKENS // block_tokens
        self._holders: dict[int, int] = {}  # by key: bit r is set if it is present on replica r
        self._anchors: dict[int, int] = {}  # the same of every ANCHOR_BLOCKS-th key of a chain
        self._replicas = [_Replica(number, blocks, self) for number, blocks in enumerate(capacities)]
        self._columns = np.zeros((len(capacities), PREFIX_COLUMNS))
        self._full: dict[int, float] = {}  # replicas without free blocks: when what goes next joined the queue
        for number in range(len(capacities)):
            self._note(number)

    def match(self, keys: Sequence[int], now: float) -> list[int]:
        """Return how many blocks of a chain, from its first on, each replica holds."""
        self._forget(now)
        depths = [0] * len(self._replicas)
        keys, _ = self._cut(keys, 0)
        if not len(keys):
            return depths
        if not self.options.tails_first:
            return self._walk(keys, depths)
        look_up, look_up_anchor = self._holders.get, self._anchors.get
        rest = look_up(keys[0], 0)

        def of_key(key: int) -> int:
            return -(look_up(key, 0) & rest)

        def of_anchor(key: int) -> int:
            return -(look_up_anchor(key, 0) & rest)

        anchors, depth = keys[ANCHOR_BLOCKS - 1 :: ANCHOR_BLOCKS], len(keys)
        while rest:
            # The first block that none of the rest holds, first among the anchors: they are below 0 before it.
            low = ANCHOR_BLOCKS * bisect_left(anchors, 0, 0, depth // ANCHOR_BLOCKS, key=of_anchor)
            depth = bisect_left(keys, 0, low, min(low + ANCHOR_BLOCKS, depth), key=of_key)
            deepest = look_up(keys[depth - 1], 0) & rest
            rest ^= deepest
            while deepest:
                bit = deepest & -deepest
                depths[bit.bit_length() - 1] = depth
                deepest ^= bit
        return depths

    def see(self, keys: Sequence[int], now: float) -> Floats:
        """float64[replicas, PREFIX_COLUMNS]: MATCHED_TOKENS, HELD_TOKENS, FREE_TOKENS and EVICTION_AGE
        (vidur.observation), valid until the next event; the other columns are the caller's.

        keys: of the arrival's blocks that a cache can provide: those within its prompt less one token.
        """
        columns, tokens = self._columns, self.block_tokens
        for number, blocks in enumerate(self.match(keys, now)):
            columns[number, MATCHED_TOKENS] = blocks * tokens
        for number, since in self._full.items():
            columns[number, EVICTION_AGE] = now - since
        return columns

    def held(self, replica: int) -> int:
        """Return the blocks that outstanding requests of a replica hold."""
        return self._replicas[replica].held

    def free(self, replica: int) -> int:
        """Return the blocks of a replica that hold nothing; below 0 if more are held than it has."""
        return self._replicas[replica].free

    def place(self, replica: int, request: int, keys: Sequence[int], private: int, now: float) -> None:
        """Enter a request that is sent to a replica."""
        self._forget(now)
        keys, private = self._cut(keys, private)
        there = self._replicas[replica]
        there.placed[request] = len(keys), private
        if self.options.holds:
            there.hold(keys, private)
        else:
            there.refresh(keys, private, now)
        there.evict()
        self._note(replica)

    def end(self, replica: int, request: int, keys: Sequence[int], private: int, now: float) -> None:
        """Note the end of a request: of its answer, or without one. keys, private: its chain with what it has of an
        answer; it begins as the one placed, and its last block is full."""
        self._forget(now)
        there = self._replicas[replica]
        placed, private_before = there.placed.pop(request)
        keys, private = self._cut(keys, private)
        if not self.options.outputs:
            keys, private = keys[:placed], private_before
        if self.options.holds:
            there.hold(keys[placed:], private - private_before, placed)
            there.release(keys, private, now)
        elif self.options.outputs:
            there.refresh(keys, max(private - private_before, 0), now)
        there.evict()
        self._note(replica)

    def clear(self, replica: int) -> None:
        """Forget all of a replica, as when it has failed; none of its requests may end after that."""
        there = self._replicas[replica]
        there.drop(there.states)
        self._replicas[replica] = _Replica(replica, there.capacity, self)
        self._note(replica)

    def _note(self, replica: int) -> None:
        """Update the columns of a replica."""
        there, columns, tokens = self._replicas[replica], self._columns, self.block_tokens
        columns[replica, HELD_TOKENS] = there.held * tokens
        columns[replica, FREE_TOKENS] = there.free * tokens
        columns[replica, EVICTION_AGE] = 0.0
        if (since := there.oldest()) is None:
            self._full.pop(replica, None)
        else:
            self._full[replica] = since

    def _walk(self, keys: Sequence[int], depths: list[int]) -> list[int]:
        """Count block by block for which replicas a chain is present."""
        contiguous, look_up = self.options.contiguous, self._holders.get
        mask, since = -1, 0
        for depth, key in enumerate(keys):
            having = look_up(key, 0) & mask if contiguous else look_up(key, 0)
            if having != mask:
                _add(depths, mask, depth - since)
                mask, since = having, depth
                if not having:
                    return depths
        _add(depths, mask, len(keys) - since)
        return depths

    def _cut(self, keys: Sequence[int], private: int) -> tuple[Sequence[int], int]:
        if len(keys) + private <= self._longest:
            return keys, private
        longest = int(self._longest)
        return keys[:longest], max(longest - len(keys), 0)

    def _forget(self, now: float) -> None:
        """Drop what has not been used for `ttl` seconds."""
        if self.options.ttl < math.inf:
            for number, replica in enumerate(self._replicas):
                if replica.forget(now - self.options.ttl):
                    self._note(number)


def _add(depths: list[int], mask: int, blocks: int) -> None:
    """Add `blocks` to the depths of the replicas in a mask."""
    for replica in range(len(depths)):
        depths[replica] += blocks * ((mask >> replica) & 1)


@dataclass(slots=True)
class _Joined:
    """Blocks that joined a queue together, the oldest last; some may have left it since.

    number: of this event, in order. private: how many blocks no other request shares, and are older (if tails_first)
    or younger than the keys.
    """

    number: int
    time: float
    keys: list[int]
    private: int


class _Replica:
    """What the index knows of one replica. A key's state is minus the requests that hold it, or, in the queue, the
    number of the event by which it joined, which is at least 0. The queue is a list of such events; a key that has left
    it, or has joined again, has another state than the event's number."""

    def __init__(self, number: int, capacity: int, index: PrefixIndex) -> None:
        self.capacity = capacity
        self.held = 0
        self.states: dict[int, int] = {}
        self.placed: dict[int, tuple[int, int]] = {}  # by request: keys, private blocks
        self._bit = 1 << number
        self._holders, self._anchors = index._holders, index._anchors
        self._tails_first = index.options.tails_first
        self._queued = 0
        self._queue: deque[_Joined] = deque()
        self._stale = 0  # keys in events that are not in the queue any more, at most
        self._events = 0

    @property
    def free(self) -> int:
        return self.capacity - self.held - self._queued

    def oldest(self) -> float | None:
        """Return when the block that goes next joined the queue; None while blocks are free or the queue is empty."""
        if self.free > 0 or not self._queued:
            return None
        self._trim()
        return self._queue[0].time

    def hold(self, keys: Sequence[int], private: int, start: int = 0) -> None:
        """Hold blocks that come behind the first `start` of their chain."""
        states = self.states
        look_up, new, found = states.get, [], 0
        for key in keys:
            state = look_up(key)
            if state is None:
                states[key] = -1
                new.append(key)
            elif state >= 0:
                states[key] = -1
                found += 1
            else:
                states[key] = state - 1
        self._enter(new, keys[-1 - start % ANCHOR_BLOCKS + ANCHOR_BLOCKS :: ANCHOR_BLOCKS])
        self._queued -= found
        self._stale += found
        self.held += len(new) + found + private

    def release(self, keys: Sequence[int], private: int, now: float) -> None:
        states, event, joined = self.states, self._events, []
        for key in keys:
            state = states[key]
            if state == -1:
                states[key] = event
                joined.append(key)
            else:
                states[key] = state + 1
        self.held -= len(joined) + private
        self._join(joined, private, now)

    def refresh(self, keys: Sequence[int], private: int, now: float) -> None:
        """Put a chain at the young end of the queue, whether it was there or not."""
        new = [key for key in keys if key not in self.states]
        self._enter(new, keys[ANCHOR_BLOCKS - 1 :: ANCHOR_BLOCKS])
        self.states.update(dict.fromkeys(keys, self._events))
        self._queued -= len(keys) - len(new)
        self._stale += len(keys) - len(new)
        self._join(list(keys), private, now)

    def evict(self) -> None:
        """Drop blocks of the queue's old end that exceed the capacity."""
        while self.free < 0 and self._queued:
            self._trim()
            self._shrink(self._queue[0], -self.free)

    def forget(self, since: float) -> bool:
        """Drop blocks that joined the queue before a time; return whether there were any."""
        queued = self._queued
        while self._queue and self._queue[0].time < since:
            self._shrink(self._queue[0], self._queued)
            self._trim()
        return self._queued < queued

    def drop(self, keys: Iterable[int]) -> None:
        """Note that keys are no longer present."""
        for holders in (self._holders, self._anchors):
            for key in keys:
                if key in holders:
                    holders[key] ^= self._bit
                    if not holders[key]:
                        del holders[key]

    def _enter(self, keys: Iterable[int], anchors: Iterable[int]) -> None:
        """Note that keys are present, and which of the chain are anchors."""
        bit = self._bit
        for holders, entered in ((self._holders, keys), (self._anchors, anchors)):
            for key in entered:
                holders[key] = holders.get(key, 0) | bit

    def _join(self, keys: list[int], private: int, now: float) -> None:
        if not self._tails_first:
            keys.reverse()
        self._queue.append(_Joined(self._events, now, keys, private))
        self._events += 1
        self._queued += len(keys) + private
        if self._stale > 2 * self._queued + 10_000:
            self._compact()

    def _compact(self) -> None:
        """Remove from all events the keys that are not in the queue any more."""
        states = self.states
        for joined in self._queue:
            joined.keys = [key for key in joined.keys if states.get(key) == joined.number]
        self._queue = deque(joined for joined in self._queue if joined.keys or joined.private)
        self._stale = 0

    def _trim(self) -> None:
        """Remove from the queue's old end what is not in it any more."""
        while self._queue:
            joined = self._queue[0]
            if joined.private and (self._tails_first or not joined.keys):
                return
            keys, number, look_up = joined.keys, joined.number, self.states.get
            while keys and look_up(keys[-1]) != number:
                keys.pop()
                self._stale -= 1
            if keys:
                return
            if not joined.private:
                self._queue.popleft()

    def _shrink(self, joined: _Joined, most: int) -> None:
        """Drop at most so many blocks of the oldest event, which has been trimmed."""
        if joined.private and (self._tails_first or not joined.keys):
            dropped = min(joined.private, most)
            joined.private -= dropped
            self._queued -= dropped
            return
        keys, number, states = joined.keys, joined.number, self.states
        gone: list[int] = []
        while keys and len(gone) < most:
            key = keys.pop()
            if states.get(key) == number:
                del states[key]
                gone.append(key)
            else:
                self._stale -= 1
        self.drop(gone)
        self._queued -= len(gone)
