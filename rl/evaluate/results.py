"""What an evaluation found: every metric of every router in every scenario, seed by seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.evaluate.baselines import HEURISTICS, LEAST_TOKENS
from vidur.compare.figures import HIGHER_IS_BETTER, METRICS
from vidur.compare.scenario import Scenario
from vidur.compare.statistics import PairedDifference, estimate, paired_difference
from vidur.scheduler.observation import Floats


def ppo_name(beta: float) -> str:
    """What the learned router is called at a beta."""
    return f"ppo beta {beta:g}"


def thresholds_text(thresholds: Sequence[float]) -> str:
    """`1,200 and 3,532 tokens`."""
    return " and ".join(f"{value:,.0f}" for value in thresholds) + " tokens" if thresholds else "its own thresholds"


@dataclass(frozen=True)
class ScenarioResults:
    """values[router][metric]: float64[seeds], in the order of the seeds. thresholds: size_split's, tuned, in tokens."""

    scenario: Scenario
    thresholds: tuple[float, ...]
    values: Mapping[str, Mapping[str, Floats]]

    @property
    def routers(self) -> list[str]:
        return list(self.values)

    def heuristics(self, without: Collection[str] = ()) -> list[str]:
        return [router for router in self.values if router in HEURISTICS and router not in without]

    def mean(self, router: str, metric: str) -> float:
        return float(self.values[router][metric].mean())

    def best(self, metric: str, without: Collection[str] = ()) -> str:
        """The heuristic with the best mean over the seeds."""
        sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
        return min(self.heuristics(without), key=lambda router: sign * self.mean(router, metric))

    def difference(self, router: str, baseline: str, metric: str) -> PairedDifference:
        ours, theirs = self.values[router][metric], self.values[baseline][metric]
        return paired_difference(ours, theirs, metric in HIGHER_IS_BETTER)

    def ratio(self, router: str, baseline: str, metric: str) -> float:
        """Of the means over the seeds."""
        return self.mean(router, metric) / self.mean(baseline, metric)


@dataclass(frozen=True)
class Results:
    """Of an evaluation. command: what reproduces it. policy: the checkpoint's name; policy_hash: of its bytes."""

    scenarios: Sequence[ScenarioResults]
    betas: Sequence[float]
    default_beta: float
    seeds: Sequence[int]
    requests: int
    command: str
    policy: str
    policy_hash: str

    @property
    def ppo(self) -> list[str]:
        """The learned router's names, one for each beta."""
        return [ppo_name(beta) for beta in self.betas]

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, one row for each scenario, router and metric, with its comparisons: the learned router's with
        every heuristic and with the best one, a heuristic's with least_tokens."""
        rows = []
        for its in self.scenarios:
            for router in its.routers:
                learned = router not in HEURISTICS
                baselines = its.heuristics() if learned else [LEAST_TOKENS]
                for metric in METRICS:
                    if np.isnan(its.values[router][metric]).any():
                        continue
                    found = estimate(its.values[router][metric])
                    rows.append({
                        "scenario": its.scenario.name,
                        "load": its.scenario.header.load,
                        "replicas": its.scenario.num_replicas,
                        "scheduler": router,
                        "metric": metric,
                        "mean": found.mean,
                        "interval": [found.low, found.high],
                        "values": its.values[router][metric].tolist(),
                        "best_heuristic": its.best(metric),
                        "comparisons": [
                            _comparison(baseline, its.difference(router, baseline, metric)) for baseline in baselines
                        ],
                    })  # fmt: skip
        return rows


def _comparison(baseline: str, found: PairedDifference) -> dict[str, Any]:
    return {
        "baseline": baseline,
        "difference": found.mean,
        "interval": [found.low, found.high],
        "unit": "percent" if found.relative else "the metric's",
        "verdict": found.verdict,
    }
