"""Dedicated replicas for long prompts, least_tokens within each class (SITA: Harchol-Balter et al., 1999)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, SizeSplitGlobalSchedulerConfig
from vidur.observation import ARRIVAL_PROMPT, SPEED, Floats, View
from vidur.scheduler.routers.base import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext
from vidur.scheduler.routers.choice import least, token_backlog


def choose_size_split(view: View, memory: Floats, draws: Floats) -> int:
    """Apply least_tokens to the replicas of the prompt's class, or to all if none of them is available.

    memory: last choice, expected output tokens, number of thresholds, thresholds, class of each replica.
    """
    thresholds = int(memory[2])
    size_class = 0
    for index in range(thresholds):
        if view.arrival[ARRIVAL_PROMPT] > memory[3 + index]:
            size_class = index + 1
    allowed = np.zeros(len(view.available), np.int64)
    for replica in range(len(view.available)):
        if view.available[replica] and memory[3 + thresholds + replica] == size_class:
            allowed[replica] = 1
    scores = np.empty(len(view.available))
    token_backlog(view.ledger, view.hardware, view.arrival, view.completions, memory[1], scores)
    chosen = least(scores, allowed if allowed.sum() > 0 else view.available, int(memory[0]))
    memory[0] = chosen
    return chosen


def split_evenly(prompts: NDArray[np.int64], work: Floats, speeds: Floats) -> tuple[Floats, Floats]:
    """Return one threshold, and the class (0 short, 1 long) of each replica.

    The fastest quarter of the replicas serve long prompts; the threshold splits work in proportion to speed.
    """
    count = len(speeds)
    if count == 1 or len(prompts) == 0:
        return np.zeros(0), np.zeros(count)
    classes = np.zeros(count)
    fastest = np.argsort(-speeds, kind="stable")[: max(1, count // 4)]
    classes[fastest] = 1.0
    short_share = 1.0 - speeds[fastest].sum() / speeds.sum()
    order = np.argsort(prompts, kind="stable")
    done = np.cumsum(work[order]) / work.sum()
    return np.array([float(prompts[order][min(np.searchsorted(done, short_share), len(order) - 1)])]), classes


def assign_classes(thresholds: Floats, prompts: NDArray[np.int64], work: Floats, speeds: Floats) -> Floats:
    """Assign replicas to classes so that each class's speed matches its share of the work; at least one per class."""
    classes = len(thresholds) + 1
    of_request = np.searchsorted(thresholds, prompts, side="left")
    shares = np.bincount(of_request, weights=work, minlength=classes) if len(prompts) else np.ones(classes)
    ends = np.cumsum(shares) / shares.sum()
    middles = (np.cumsum(speeds) - speeds / 2.0) / speeds.sum()
    assigned = np.minimum(np.searchsorted(ends, middles), classes - 1)
    if len(speeds) >= classes:
        for size_class in range(classes):
            assigned[size_class] = min(assigned[size_class], size_class)
            index = len(speeds) - classes + size_class
            assigned[index] = max(assigned[index], size_class)
    return np.maximum.accumulate(assigned).astype(np.float64)


@GLOBAL_SCHEDULERS.register("size_split")
class SizeSplitScheduler(KernelScheduler):
    choose = staticmethod(choose_size_split)

    @classmethod
    def from_config(cls, config: BaseGlobalSchedulerConfig, context: RouterContext) -> KernelScheduler:
        assert isinstance(config, SizeSplitGlobalSchedulerConfig)
        speeds = context.hardware[:, SPEED]
        work = (context.prompt_tokens + context.output_tokens).astype(np.float64)
        if config.thresholds:
            thresholds = np.array(config.thresholds)
            classes = assign_classes(thresholds, context.prompt_tokens, work, speeds)
        else:
            thresholds, classes = split_evenly(context.prompt_tokens, work, speeds)
        head = np.array([-1.0, config.expected_output_tokens, float(len(thresholds))])
        return cls(context, np.concatenate([head, thresholds, classes]))
