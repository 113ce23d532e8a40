"""`consistent_hash` of vllm-project/router (`src/policies/consistent_hash.rs`): a ring of Facebook's FurcHash.

A request without a session is hashed by minus its number; the original would hash its text. An unavailable replica
stays on the ring, and the first available one serves for it.

A 64-bit number is any integer with these low 64 bits: compiled arithmetic wraps, plain Python's grows, and both agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, ConsistentHashGlobalSchedulerConfig
from vidur.observation import ARRIVAL_ORDINAL, ARRIVAL_SESSION, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext

_MULTIPLIER = 0xC6A4A7935BD1E995 - (1 << 64)  # signed, as Numba's integers are
_SEED = 4193360111
_LOW = 0xFFFFFFFF
_DEPTH, _SHIFT, _TRIES = 23, 23, 32
_MODULUS = (1 << _DEPTH) - 1
# FurcHash reads at most this many 64-bit words.
_WORDS = (_DEPTH + _SHIFT * _DEPTH * _TRIES) // 64 + 1
_MINUS, _ZERO = 45, 48  # ASCII

# memory: points on the ring, bytes of the key's beginning, these bytes; then of each point, in the order of their
# hashes: the hash's upper and lower 32 bits and the replica.
_HEAD, _POINT = 2, 3


def murmur_hash(text: NDArray[np.int64], count: int) -> int:
    """Return MurmurHash64A of the first `count` bytes of a text, as a 64-bit number."""
    hashed = _SEED ^ (count * _MULTIPLIER)
    for start in range(0, count, 8):
        word = 0
        for i in range(start, min(start + 8, count)):
            word |= int(text[i]) << (8 * (i - start))
        if start + 8 <= count:
            word *= _MULTIPLIER
            word ^= (word >> 47) & 0x1FFFF
            word *= _MULTIPLIER
        hashed = (hashed ^ word) * _MULTIPLIER
        hashed = ((hashed >> 32) & _LOW) << 32 | (hashed & _LOW)
    hashed ^= (hashed >> 47) & 0x1FFFF
    hashed *= _MULTIPLIER
    return hashed ^ ((hashed >> 47) & 0x1FFFF)


def rehash(word: int) -> int:
    """Return MurmurHash64A of the eight bytes of a 64-bit number, as another."""
    word *= _MULTIPLIER
    word ^= (word >> 47) & 0x1FFFF
    word *= _MULTIPLIER
    hashed = (_SEED ^ (8 * _MULTIPLIER) ^ word) * _MULTIPLIER
    hashed ^= (hashed >> 47) & 0x1FFFF
    hashed *= _MULTIPLIER
    return hashed ^ ((hashed >> 47) & 0x1FFFF)


def furc_bit(words: NDArray[np.int64], index: int) -> int:
    """Return bit `index` of the hash and its successive rehashes. words: their lower and upper halves, in turn;
    words[-1]: how many are known."""
    wanted = index >> 6
    while words[-1] <= wanted:
        known = words[-1]
        word = rehash((int(words[2 * known - 1]) << 32) | int(words[2 * known - 2]))
        words[2 * known], words[2 * known + 1] = word & _LOW, (word >> 32) & _LOW
        words[-1] += 1
    return (int(words[2 * wanted + ((index >> 5) & 1)]) >> (index & 31)) & 1


def furc_hash(text: NDArray[np.int64], count: int) -> int:
    """Return FurcHash of the first `count` bytes of a text (mcrouter, `lib/fbi/hash.c`), from 0 to 2^23 - 2."""
    words = np.zeros(2 * _WORDS + 3, np.int64)
    first = murmur_hash(text, count)
    words[0], words[1], words[-1] = first & _LOW, (first >> 32) & _LOW, 1
    depth = index = _DEPTH
    for _ in range(_TRIES):
        while furc_bit(words, index) == 0:
            if depth == 0:
                return 0
            depth -= 1
            index = depth
        index += _SHIFT
        number = 1
        for _ in range(depth - 1):
            number = number << 1 | furc_bit(words, index)
            index += _SHIFT
        if number < _MODULUS:
            return number
    return 0


def ring_hash(text: NDArray[np.int64], count: int) -> int:
    """Return the place on the ring of the first `count` bytes of a text, as a 64-bit number."""
    number = furc_hash(text, count)
    return murmur_hash(np.array([number & 255, (number >> 8) & 255, (number >> 16) & 255, 0], np.int64), 4)


def choose_consistent_hash(view: View, memory: Floats, draws: Floats) -> int:
    """Choose the replica of the first point on the ring from the session's hash on, or the first available replica."""
    length = int(memory[1])
    text = np.zeros(length + 21, np.int64)
    for i in range(length):
        text[i] = int(memory[_HEAD + i])
    number = int(view.arrival[ARRIVAL_SESSION])
    if number < 0:
        number = int(view.arrival[ARRIVAL_ORDINAL])
        text[length] = _MINUS
        length += 1
    digits = 1
    while number >= 10**digits:
        digits += 1
    for i in range(digits):
        text[length + i] = _ZERO + number // 10 ** (digits - 1 - i) % 10
    hashed = ring_hash(text, length + digits)
    high, low = (hashed >> 32) & _LOW, hashed & _LOW
    points, start = int(memory[0]), _HEAD + int(memory[1])
    first, last = 0, points
    while first < last:
        middle = (first + last) // 2
        point = start + _POINT * middle
        if memory[point] < high or (memory[point] == high and memory[point + 1] < low):
            first = middle + 1
        else:
            last = middle
    replica = int(memory[start + _POINT * (first % points) + 2])
    while not view.available[replica]:
        replica = 0 if view.available[0] else (replica + 1) % len(view.available)
    return replica


def remembered(urls: list[str], key: str, virtual_nodes: int) -> Floats:
    """Return the kernel's memory for replicas with these addresses. key: what is hashed before a session's number."""
    points: dict[int, int] = {}
    for replica, url in enumerate(urls):
        for node in range(virtual_nodes):
            # Of two equal hashes the later replaces the earlier.
            points[ring_hash(*_bytes(f"{url}:{node}")) % (1 << 64)] = replica
    ring = [(hashed >> 32, hashed & _LOW, replica) for hashed, replica in sorted(points.items())]
    text, length = _bytes(key)
    return np.concatenate([[len(ring), length], text, np.array(ring).ravel()]).astype(np.float64)


def _bytes(text: str) -> tuple[NDArray[np.int64], int]:
    encoded = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    return encoded, len(encoded)


@GLOBAL_SCHEDULERS.register("consistent_hash")
class ConsistentHashScheduler(KernelScheduler):
    choose = staticmethod(choose_consistent_hash)
    observes = 0

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, ConsistentHashGlobalSchedulerConfig)
        urls = [config.url.replace("{replica}", str(replica)) for replica in range(context.num_replicas)]
        return cls(context, remembered(urls, config.key, config.virtual_nodes))
