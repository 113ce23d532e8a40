"""Tuning size_split: for each scenario a search for its thresholds, over seeds that no comparison may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from vidur.compare.cell import Cell
from vidur.compare.scenario import Scenario
from vidur.compare.store import CellStore, figures_of_all
from vidur.config import SizeSplitGlobalSchedulerConfig
from vidur.request_generator import generate_requests

SIZE_SPLIT = SizeSplitGlobalSchedulerConfig.type_name
TUNING_SEEDS = (1, 2, 3)
# Quantiles of the prompts that are tried as one threshold, and in pairs; then each threshold of the best times these.
_ONE = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.94, 0.97)
_TWO = (0.4, 0.6, 0.75, 0.85, 0.92, 0.97)
_FINER = (0.8, 0.9, 1.1, 1.25)

Thresholds = tuple[float, ...]
OnFinished = Callable[[int], None]


def tune_size_split(
    scenarios: Sequence[Scenario], requests: int, store: CellStore, on_finished: OnFinished
) -> list[Thresholds]:
    """Find the thresholds of the least mean E2E for each scenario; () are those that the router takes by itself.

    Raises InputError where a simulation fails.
    """
    coarse = [_candidates(scenario, requests) for scenario in scenarios]
    best = _best(scenarios, coarse, requests, store, on_finished)
    finer = [[thresholds, *_near(thresholds)] for thresholds in best]
    return _best(scenarios, finer, requests, store, on_finished)


def most_simulations(scenarios: int) -> int:
    """How many simulations a search takes, at most."""
    one = 1 + len(_ONE) + len(_TWO) * (len(_TWO) - 1) // 2
    return scenarios * len(TUNING_SEEDS) * (one + 1 + 2 * len(_FINER))


def _candidates(scenario: Scenario, requests: int) -> list[Thresholds]:
    prompts = generate_requests(scenario.configure(TUNING_SEEDS[0], requests).request_generator_config)
    one = [(float(value),) for value in np.quantile(prompts.num_prefill_tokens, _ONE).round()]
    cuts = [float(value) for value in np.quantile(prompts.num_prefill_tokens, _TWO).round()]
    two = [(low, high) for place, low in enumerate(cuts) for high in cuts[place + 1 :] if low < high]
    return list(dict.fromkeys([(), *one, *two]))


def _near(thresholds: Thresholds) -> list[Thresholds]:
    """`thresholds` with one of them changed."""
    changed = []
    for place, value in enumerate(thresholds):
        for factor in _FINER:
            other = (*thresholds[:place], round(factor * value), *thresholds[place + 1 :])
            if all(low < high for low, high in pairwise(other)):
                changed.append(tuple(map(float, other)))
    return changed


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
        for scenario, its in zip(scenarios, candidates, strict=True)
        for thresholds in its
        for seed in TUNING_SEEDS
    ]
    found = iter(figures_of_all(cells, store.run(cells, on_finished)))
    best = []
    for its in candidates:
        costs = [np.mean([next(found)["mean_e2e"] for _ in TUNING_SEEDS]) for _ in its]
        best.append(its[int(np.argmin(costs))])
    return best
