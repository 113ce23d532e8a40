"""What a router remembers of the prefixes that it placed: the settings of its index."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class IndexOptions:
    """How a router's index of one replica differs from the replica's own cache; the defaults follow vLLM.

    block_tokens: tokens of a block; 0: the replica's. capacity_factor: believed capacity relative to the real one.
    capacity_tokens: believed capacity of a replica in tokens; 0: by the factor. outputs: whether outputs are added when
    a request ends. holds: whether blocks of outstanding requests cannot be evicted. tails_first: whether a chain's tail
    is evicted before its head, or its head first. ttl: seconds after which an unused block is forgotten.
    """

    block_tokens: int = 0
    capacity_factor: float = 1.0
    capacity_tokens: int = 0
    outputs: bool = True
    holds: bool = True
    tails_first: bool = True
    ttl: float = math.inf
