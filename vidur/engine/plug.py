"""Plug batchers and routers into the engine: it calls their kernels through handles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from vidur.engine.callback import Callback
from vidur.engine.queues import FCFS
from vidur.engine.reference import declare
from vidur.engine.state import STATE, Floats, Ints
from vidur.observation import View
from vidur.registry import Registry

FOREVER = 1 << 40


def _array(dtype: str, ndim: int) -> Any:
    return types.Array(getattr(types, dtype), ndim, "C")


# form_batch(replica, now, slot, state) -> (batch size, repeats)
form_batch_callback = Callback(
    types.UniTuple(types.int64, 2),
    types.int64,
    types.float64,
    types.int64,
    STATE,
)

_NOTHING = np.zeros((0, 0))
VIEW = declare(View(0.0, _NOTHING, _NOTHING, _NOTHING, np.zeros(0), np.zeros(0, np.int64), np.zeros(0), _NOTHING))

# choose(view, memory, draws) -> replica
choose_callback = Callback(types.int64, VIEW, _array("float64", 1), _array("float64", 1))

ChooseKernel = Callable[[View, Floats, Floats], int]


@dataclass(frozen=True)
class Batcher:
    """A batching policy: its kernel and its properties.

    form_batch(replica, now, slot, state) -> (batch size, repeats) is called when fewer batches are in flight than the
    replica has pipeline stages. It moves requests from `state.ready[replica, :replicas[replica].ready]` and from the
    waiting queue (with vidur.engine.queues.admit) into `state.members[replica, slot]`, with the tokens that each
    processes, and allocates and frees KV-cache blocks. repeats: how many successive calls would form this same batch
    while all its requests decode, none finishes, none arrives in an empty waiting queue and blocks suffice. 1 is always
    correct; return FOREVER if nothing else can change the batch.

    limits(scheduler configuration, memory plan, pipeline stages): a dict of fields of vidur.engine.plan.ReplicaPlan.
    grows: requests take blocks as they decode; otherwise all are reserved at admission. chunked: a prefill may span
    several iterations. hold_until_batch_ends: a finished request's blocks stay allocated until its batch ends. order:
    of the waiting queue (vidur.engine.queues).
    """

    form_batch: Callable[..., Any]
    limits: Callable[[Any, Any, int], dict[str, int]]
    grows: bool
    chunked: bool
    hold_until_batch_ends: bool = False
    order: int = FCFS


BATCHERS: Registry[Batcher] = Registry("replica scheduler")

__all__ = ["BATCHERS", "FOREVER", "Batcher", "ChooseKernel", "Floats", "Ints", "choose_callback", "form_batch_callback"]
