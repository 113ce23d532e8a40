"""The quantities that a router observes: read them from states, permute them, or set them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl.explain.states import States, gauge_column, hardware_column
from vidur.observation import (
    ARRIVAL_AGE,
    ARRIVAL_COLUMNS,
    ARRIVAL_PROMPT,
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_OUTPUT,
    COMPLETED_PROMPT,
    DECODE_SECONDS,
    GAUGE_KV_USAGE,
    GAUGE_WAITING,
    ITL_EWMA,
    KV_TOKENS,
    OUTSTANDING,
    PREFILL_SECONDS,
    PROMPT_TOKENS,
    QUEUE_AGE,
    QUEUE_COLUMNS,
    QUEUE_PROMPT,
    SPEED,
    STREAMED_TOKENS,
    Floats,
)

QUEUE, DECODE, HARDWARE, GAUGES, ARRIVAL = "prefill queue", "decode load", "hardware", "gauges", "arrival"
GROUPS = {
    QUEUE: "requests on a replica without a first token",
    DECODE: "requests on a replica with a first token",
    HARDWARE: "speed and KV-cache of a replica",
    GAUGES: "gauges reported by the replicas, up to a second old",
    ARRIVAL: "the arriving request, and the lengths of completed ones",
}


@dataclass(frozen=True)
class Quantity:
    """An input of a router. columns: of `States.replicas`, or of `States.requests` if `of_replica` is False."""

    name: str
    unit: str
    group: str
    columns: tuple[int, ...]
    of_replica: bool = True


def quantities(queue_depth: int) -> list[Quantity]:
    """Return the quantities that a router of this queue depth observes."""
    ages = tuple(QUEUE_AGE + QUEUE_COLUMNS * index for index in range(queue_depth))
    prompts = tuple(QUEUE_PROMPT + QUEUE_COLUMNS * index for index in range(queue_depth))
    speed = tuple(hardware_column(column, queue_depth) for column in (SPEED, PREFILL_SECONDS, DECODE_SECONDS))
    completed = tuple(ARRIVAL_COLUMNS + column for column in (COMPLETED_COUNT, COMPLETED_OUTPUT, COMPLETED_PROMPT))
    inputs = [
        Quantity("prompt tokens to prefill", "tokens", QUEUE, (AWAITING_TOKENS,)),
        Quantity("requests without a first token", "requests", QUEUE, (AWAITING,)),
        Quantity("ages of the first in the queue", "s", QUEUE, ages),
        Quantity("prompts of the first in the queue", "tokens", QUEUE, prompts),
        Quantity("decoding requests", "requests", DECODE, (OUTSTANDING,)),
        Quantity("prompt tokens of decoding requests", "tokens", DECODE, (PROMPT_TOKENS,)),
        Quantity("streamed tokens", "tokens", DECODE, (STREAMED_TOKENS,)),
        Quantity("inter-token latency", "s", DECODE, (ITL_EWMA,)),
        Quantity("relative speed", "of the fastest", HARDWARE, speed),
        Quantity("size of the KV-cache", "tokens", HARDWARE, (hardware_column(KV_TOKENS, queue_depth),)),
        Quantity("gauge of waiting requests", "requests", GAUGES, (gauge_column(GAUGE_WAITING, queue_depth),)),
        Quantity("gauge of KV-cache use", "0 to 1", GAUGES, (gauge_column(GAUGE_KV_USAGE, queue_depth),)),
        Quantity("arriving prompt", "tokens", ARRIVAL, (ARRIVAL_PROMPT,), of_replica=False),
        Quantity("age of the arriving request", "s", ARRIVAL, (ARRIVAL_AGE,), of_replica=False),
        Quantity("lengths of completed requests", "tokens", ARRIVAL, completed, of_replica=False),
    ]
    return [quantity for quantity in inputs if quantity.columns]


def permuted(states: States, chosen: Sequence[Quantity], rng: np.random.Generator) -> States:
    """Return the states with the chosen quantities of another random state each.

    Replicas are permuted too: otherwise a replica that is always slow would keep its speed.
    """
    other = rng.permutation(len(states))
    deal = rng.permuted(np.tile(np.arange(states.available.shape[1]), (len(states), 1)), axis=1)
    replicas, requests = states.replicas.copy(), states.requests.copy()
    for quantity in chosen:
        for column in quantity.columns:
            if quantity.of_replica:
                replicas[:, :, column] = np.take_along_axis(states.of(column)[other], deal, 1)
            else:
                requests[:, column] = states.requests[other, column]
    return dataclasses.replace(states, replicas=replicas, requests=requests)


def with_value(states: States, quantity: Quantity, replica: NDArray[np.int64], value: float) -> States:
    """Return the states with a quantity of one replica each, int64[N], set to `value`.

    Setting a speed also sets the hardware's times; of the first in the queue, only the oldest is set.
    """
    replicas = states.replicas.copy()
    rows = np.arange(len(states))
    column = quantity.columns[0]
    if column == hardware_column(SPEED, states.queue_depth):
        fastest = states.speed.argmax(1)
        for seconds in quantity.columns[1:]:
            replicas[rows, replica, seconds] = states.replicas[rows, fastest, seconds] / value
    replicas[rows, replica, column] = value
    return dataclasses.replace(states, replicas=replicas)


def sweep(states: Sequence[States], quantity: Quantity, points: int) -> Floats:
    """Return evenly spaced values of a quantity, from the least to the p98 of the observed values."""
    column = quantity.columns[0]
    seen = np.concatenate([part.of(column)[part.available] for part in states])
    low, high = float(seen.min()), float(np.quantile(seen, 0.98))
    if column == hardware_column(SPEED, states[0].queue_depth):
        low, high = min(low, 0.4), 1.0
    return np.linspace(low, high if high > low else low + 1.0, points)
