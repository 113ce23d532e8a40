"""What prompts contain, and which request follows which: what prefix caches and closed-loop sessions need.

Content is known by token ids that identify prefixes: two tokens have the same id if and only if they and everything
before them are equal. A request's tokens, prompt then output, are a chain of runs of consecutive ids; a long
conversation takes a few runs, however many tokens it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ID_GAP = 1 << 16
"""Generators leave this many ids unused between runs of unrelated content, so that any block size up to it is right."""


def ranges(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> IntArray:
    """Return starts[i], starts[i] + 1, ..., counts[i] of them, for each i in turn."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - ends + counts, counts)


@dataclass(frozen=True)
class Content:
    """The content of N requests. Do not write to the arrays.

    Runs offsets[i] to offsets[i + 1] belong to request i: `lengths` tokens with ids from `first` on. They cover the
    start of its prompt and output; what they leave out is content that no other request shares. granularity: tokens of
    a block of the source, which a replica's block size must divide; 0 if every block size is right.
    """

    offsets: IntArray  # [N + 1]
    first: IntArray  # [runs] at least 0
    lengths: IntArray  # [runs] at least 1
    granularity: int = 0

    @classmethod
    def of_hash_ids(cls, hash_ids: Sequence[Sequence[int]], prompt_tokens: IntArray, granularity: int) -> Content:
        """Make the content of prompts from the ids of their blocks of `granularity` tokens, the last one partial."""
        counts = np.fromiter((len(ids) for ids in hash_ids), np.int64, len(hash_ids))
        ids = np.fromiter((id_ for row in hash_ids for id_ in row), np.int64, int(counts.sum()))
        return cls.of_block_ids(counts, ids, prompt_tokens, granularity)

    @classmethod
    def of_block_ids(cls, counts: IntArray, ids: IntArray, prompt_tokens: IntArray, granularity: int) -> Content:
        """Make the same from all ids in turn, counts[i] of them of prompt i."""
        offsets = np.concatenate([[0], np.cumsum(counts)])
        lengths = np.full(len(ids), granularity, np.int64)
        last = offsets[1:][counts > 0] - 1
        lengths[last] = prompt_tokens[counts > 0] - (counts[counts > 0] - 1) * granularity
        return cls(offsets, ids * granularity, lengths, granularity).merged()

    def merged(self) -> Content:
        """Return the same content with adjacent runs joined where ids continue."""
        if not len(self.first):
            return self
        starts = np.zeros(len(self.first), bool)
        starts[self.offsets[:-1][np.diff(self.offsets) > 0]] = True
        starts[1:] |= self.first[1:] != self.first[:-1] + self.lengths[:-1]
        kept = np.flatnonzero(starts)
        before = np.concatenate([[0], np.cumsum(starts)])
        lengths = np.add.reduceat(self.lengths, kept)
        return Content(before[self.offsets], self.first[kept], lengths, self.granularity)

    def take(self, order: npt.NDArray[np.intp]) -> Content:
        """Return the content of the requests in `order`."""
        counts = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = ranges(self.offsets[:-1][order], counts)
        return Content(offsets, self.first[rows], self.lengths[rows], self.granularity)

    def cut(self, most: IntArray) -> Content:
        """Return the content of the first `most[i]` tokens of each request."""
        total = np.concatenate([[0], np.cumsum(self.lengths)])
        left = np.repeat(most + total[self.offsets[:-1]], np.diff(self.offsets)) - total[:-1]
        kept = np.concatenate([[0], np.cumsum(left > 0)])
        lengths = np.minimum(self.lengths, left)[left > 0]
        return Content(kept[self.offsets], self.first[left > 0], lengths, self.granularity)

    def tokens(self) -> IntArray:
        """int64[N]: how many tokens of each request the runs cover."""
        total = np.concatenate([[0], np.cumsum(self.lengths)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]])

    def blocks(self, block_size: int) -> Blocks:
        """Return the chains of full blocks of `block_size` tokens. Their keys identify prefixes, as ids do."""
        assert self.granularity % block_size == 0
        total = np.concatenate([[0], np.cumsum(self.lengths)])
        owner = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        begins = total[:-1] - total[self.offsets[:-1]][owner]
        before, after = begins // block_size, (begins + self.lengths) // block_size
        keys = (self.first + (before + 1) * block_size - 1 - begins) // block_size
        full = after > before
        kept = np.concatenate([[0], np.cumsum(full)])
        return Blocks(kept[self.offsets], keys[full], after[full])

    def validate(self, requests: int, most: IntArray) -> None:
        """Assert the properties of the fields; `most`: tokens of each request."""
        assert len(self.offsets) == requests + 1 and self.offsets[0] == 0 and self.offsets[-1] == len(self.first)
        assert (np.diff(self.offsets) >= 0).all() and len(self.first) == len(self.lengths)
        assert (self.first >= 0).all() and (self.lengths >= 1).all()
        assert (self.tokens() <= most).all()


@dataclass(frozen=True)
class Blocks:
    """The chains of block keys of N requests, as runs: run r of a request ends before block ends[r] of the request, and
    its keys are consecutive from keys[r] on. Equal keys mean equal prefixes."""

    offsets: IntArray  # [N + 1]
    keys: IntArray  # [runs]
    ends: IntArray  # [runs] ascending within a request

    def chain(self, request: int) -> IntArray:
        """Return the keys of a request's blocks."""
        runs = slice(int(self.offsets[request]), int(self.offsets[request + 1]))
        starts = np.concatenate([[0], self.ends[runs]])
        parts = [key + np.arange(count) for key, count in zip(self.keys[runs], np.diff(starts), strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *parts])


@dataclass(frozen=True)
class Turns:
    """Which requests follow others: request i arrives `think[i]` seconds after the last of its parents has ended.

    Requests children[offsets[i]:offsets[i + 1]] wait for request i. A request without parents arrives at its
    `arrived_at`; that of one with parents is only an estimate.
    """

    offsets: IntArray  # [N + 1]
    children: IntArray  # [edges]
    think: npt.NDArray[np.float64]  # [N] seconds, at least 0

    @classmethod
    def of_edges(cls, parents: IntArray, children: IntArray, think: npt.NDArray[np.float64]) -> Turns:
        """Make it from pairs (parent, child)."""
        order = np.argsort(parents, kind="stable")
        counts = np.bincount(parents, minlength=len(think))
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), children[order].astype(np.int64), think)

    def num_parents(self) -> IntArray:
        """int64[N]: for how many requests each one waits."""
        return np.bincount(self.children, minlength=len(self.think)).astype(np.int64)

    def in_time(self, arrived_at: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], IntArray]:
        """Return arrivals that are no earlier than the parents', and how many turns lead to each request.

        That number is -1 for a request that waits for itself, directly or not.
        """
        arrived_at, waits = arrived_at.copy(), self.num_parents()
        level = np.full(len(waits), -1, np.int64)
        ready, depth = np.flatnonzero(waits == 0), 0
        while len(ready):
            level[ready] = depth
            counts = np.diff(self.offsets)[ready]
            children = self.children[ranges(self.offsets[:-1][ready], counts)]
            np.maximum.at(arrived_at, children, np.repeat(arrived_at[ready], counts))
            np.subtract.at(waits, children, 1)
            ready, depth = np.sort(children[waits[children] == 0]), depth + 1
            ready = ready[np.diff(ready, prepend=-1) > 0]  # numpy.unique is many times slower.
        return arrived_at, level

    def take(self, order: npt.NDArray[np.intp]) -> Turns:
        """Return the turns of all requests in `order`."""
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        parents = np.repeat(np.arange(len(order)), np.diff(self.offsets))
        return Turns.of_edges(number[parents], number[self.children], self.think[order])

    def validate(self, requests: int) -> None:
        """Assert the properties of the fields."""
        assert len(self.think) == requests and len(self.offsets) == requests + 1
        assert self.offsets[0] == 0 and self.offsets[-1] == len(self.children)
        assert np.isfinite(self.think).all() and (self.think >= 0).all()
        parents = np.repeat(np.arange(requests), np.diff(self.offsets))
        assert (self.children > parents).all() and (self.children < requests).all(), "a parent precedes its children"
