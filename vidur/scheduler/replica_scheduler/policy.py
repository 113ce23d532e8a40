"""What a batching policy is, and how one is found by name.

A policy is one kernel, `form_batch`, called when its replica has fewer batches in flight than pipeline stages. It sees
    replica: the row of the replica; now: seconds; slot: the row of the batch to fill;
    times, requests: the request arrays; replicas: the replica array (columns: vidur.engine.layout);
    ready[replica, :replicas[replica, READY]]: admitted requests that are in no batch, in the order their batches ended;
    batch_requests, batch_tokens [replica, slot, :]: to be filled with requests and the tokens each processes.
It moves requests from `ready` and from the waiting queue into the batch, allocates and frees KV-cache blocks
(vidur.engine.queues) and returns (batch size, repeats): the next `repeats` batches would be the same one as long as no
request arrives in an empty waiting queue, none finishes, every request is in decode, and blocks are not short. 1 is
always right; FOREVER is right where only those things can change the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types

from vidur.engine.compile import Callback, array
from vidur.registry import Registry

FOREVER = 1 << 40

form_batch_callback = Callback(
    types.UniTuple(types.int64, 2),  # type: ignore[no-untyped-call]
    types.int64,
    types.float64,
    types.int64,
    array("float64", 2),
    array("int64", 2),
    array("int64", 2),
    array("int64", 2),
    array("int64", 3),
    array("int64", 3),
)


@dataclass(frozen=True)
class Policy:
    """A batching policy: its kernel and what the engine must know of it.

    grows: requests take blocks as they decode; else all are reserved at admission.
    chunked: whether a prefill may be split over iterations.
    hold_until_batch_ends: blocks of a finished request stay allocated until its whole batch is done.
    """

    form_batch: Callable[..., Any]
    grows: bool
    chunked: bool
    hold_until_batch_ends: bool = False


POLICIES: Registry[Policy] = Registry("replica scheduler")
