"""What routers see, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidur import observation as seen
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig
from vidur.observation import ClusterObservation, Floats, PlacedRequests
from vidur.scheduler.routers import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext

NOBODY = PlacedRequests(*(np.zeros(0, dtype) for dtype in (np.int64, float, float, np.int64, np.int64, bool)))


def hardware(replicas: int, speeds: Sequence[float] | None = None) -> Floats:
    table = np.ones((replicas, seen.HARDWARE_COLUMNS))
    if speeds is not None:
        table[:, seen.SPEED] = speeds
    return table


def observe(
    replicas: int,
    *,
    prompt: int = 100,
    identity: tuple[int, int] = (-1, 0),
    available: Sequence[int] | None = None,
    outstanding: Sequence[float] | None = None,
    prompt_tokens: Sequence[float] | None = None,
    waiting: Sequence[float] | None = None,
    kv_usage: Sequence[float] | None = None,
    speeds: Sequence[float] | None = None,
    completed: tuple[float, float] = (0, 0),
    placed: Sequence[PlacedRequests] | None = None,
    prefix: Mapping[int, Sequence[float]] | None = None,
) -> ClusterObservation:
    """An idle cluster, save for what is given.

    identity: session and ordinal of the arrival. completed: requests, and the sum of their output tokens. prefix:
    columns of what the router believes of caches.
    """
    ledger = np.zeros((replicas, seen.LEDGER_COLUMNS))
    gauges = np.zeros((replicas, seen.GAUGE_COLUMNS))
    for table, column, values in (
        (ledger, seen.OUTSTANDING, outstanding), (ledger, seen.PROMPT_TOKENS, prompt_tokens),
        (gauges, seen.GAUGE_WAITING, waiting), (gauges, seen.GAUGE_KV_USAGE, kv_usage),
    ):  # fmt: skip
        if values is not None:
            table[:, column] = values
    believed = np.zeros((replicas, seen.PREFIX_COLUMNS))
    for column, values in (prefix or {}).items():
        believed[:, column] = values
    arrival = np.zeros(seen.ARRIVAL_COLUMNS)
    arrival[[seen.ARRIVAL_PROMPT, seen.ARRIVAL_SESSION, seen.ARRIVAL_ORDINAL]] = prompt, *identity
    completions = np.zeros(seen.COMPLETION_COLUMNS)
    completions[[seen.COMPLETED_COUNT, seen.COMPLETED_OUTPUT]] = completed
    return ClusterObservation(
        now=0.0,
        ledger=ledger,
        gauges=gauges,
        hardware=hardware(replicas, speeds),
        available=np.ones(replicas, np.bool_) if available is None else np.array(available, np.bool_),
        arrival=arrival,
        completions=completions,
        placed=lambda replica: NOBODY if placed is None else placed[replica],
        prefix=believed,
    )


def router(
    name: str,
    replicas: int,
    config: BaseGlobalSchedulerConfig | None = None,
    *,
    speeds: Sequence[float] | None = None,
    prompts: NDArray[np.int64] | None = None,
    **settings: Any,
) -> KernelScheduler:
    """The router of that name, with its default configuration or `config`. prompts: lengths of the workload."""
    lengths = np.zeros(0, np.int64) if prompts is None else prompts
    context = RouterContext(hardware(replicas, speeds), np.random.default_rng(3), lengths, np.zeros_like(lengths))
    chosen = config or BaseGlobalSchedulerConfig.from_type(name)(**settings)
    scheduler = GLOBAL_SCHEDULERS.get(name).from_config(chosen, context)
    assert isinstance(scheduler, KernelScheduler)
    return scheduler
