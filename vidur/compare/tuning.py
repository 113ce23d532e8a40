"""Tune size_split: search each scenario's thresholds, on seeds that no comparison may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np

from vidur.compare.cell import Cell
from vidur.compare.scenario import Scenario
from vidur.compare.store import CellStore, figures_of_all
from vidur.config import SizeSplitGlobalSchedulerConfig
from vidur.request_generator import generate_requests

SIZE_SPLIT = SizeSplitGlobalSchedulerConfig.type_name
TUNING_SEEDS = (1, 2, 3)
# Quantiles of prompt lengths to try as single thresholds and in pairs; then factors on each of the best thresholds.
_SINGLE = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.94, 0.97)
_PAIRED = (0.4, 0.6, 0.75, 0.85, 0.92, 0.97)
_FINER = (0.8, 0.9, 1.1, 1.25)

Thresholds = tuple[float, ...]
OnFinished = Callable[[int], None]


def tune_size_split(
    scenarios: Sequence[Scenario], requests: int, store: CellStore, on_finished: OnFinished
) -> list[Thresholds]:
    """Find the thresholds with the least mean E2E for each scenario; () means the router's own choice.

    Raises InputError if a simulation fails.
    """
    coarse = [_candidates(scenario, requests) for scenario in scenarios]
    best = _best(scenarios, coarse, requests, store, on_finished)
    finer = [[thresholds, *_near(thresholds)] for thresholds in best]
    return _best(scenarios, finer, requests, store, on_finished)


def most_simulations(scenarios: int) -> int:
    """Return the most simulations that a search takes."""
    coarse = 1 + len(_SINGLE) + len(_PAIRED) * (len(_PAIRED) - 1) // 2
    return scenarios * len(TUNING_SEEDS) * (coarse + 1 + 2 * len(_FINER))


def _candidates(scenario: Scenario, requests: int) -> list[Thresholds]:
    prompts = generate_requests(scenario.configure(TUNING_SEEDS[0], requests).request_generator_config)
    single = [(float(value),) for value in np.quantile(prompts.num_prefill_tokens, _SINGLE).round()]
    cuts = [float(value) for value in np.quantile(prompts.num_prefill_tokens, _PAIRED).round()]
    return list(dict.fromkeys([(), *single, *((low, high) for low, high in combinations(cuts, 2) if low < high)]))


def _near(thresholds: Thresholds) -> list[Thresholds]:
    """Return the variants of `thresholds` with one of them changed."""
    variants = []
    for index, value in enumerate(thresholds):
        for factor in _FINER:
            variant = (*thresholds[:index], round(factor * value), *thresholds[index + 1 :])
            if all(low < high for low, high in pairwise(variant)):
                variants.append(tuple(map(float, variant)))
    return variants


def _best(
    scenarios: Sequence[Scenario], candidates: Sequence[Sequence[Thresholds]], requests: int, store: CellStore,
    on_finished: OnFinished,
) -> list[Thresholds]:  # fmt: skip
    cells = [
        Cell(
            scenario.name,
            f"{SIZE_SPLIT} {' '.join(f'{value:g}' for value in thresholds)}".strip(),
            seed,
            scenario.configure(seed, requests, SizeSplitGlobalSchedulerConfig(thresholds=thresholds)),
            scenario.objectives,
        )
        for scenario, choices in zip(scenarios, candidates, strict=True)
        for thresholds in choices
        for seed in TUNING_SEEDS
    ]
    figures = iter(figures_of_all(cells, store.run(cells, on_finished)))
    best = []
    for choices in candidates:
        costs = [np.mean([next(figures)["mean_e2e"] for _ in TUNING_SEEDS]) for _ in choices]
        best.append(choices[int(np.argmin(costs))])
    return best
