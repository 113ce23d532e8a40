"""The results of an evaluation: every metric of every router in every scenario, for each seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidur.compare.figures import HIGHER_IS_BETTER, METRICS
from vidur.compare.results import PointResults
from vidur.compare.scenario import Scenario
from vidur.compare.statistics import PairedDifference, estimate, paired_difference
from vidur.compare.tuning import SIZE_SPLIT
from vidur.observation import Floats

LEAST_TOKENS = "least_tokens"
# Routers that ignore the replicas' load.
BLIND = ("round_robin", "random")
# The heuristics of an evaluation.
HEURISTICS = (
    *BLIND, "lor", LEAST_TOKENS, "power_of_two", "least_kv_cache", "weighted_round_robin", SIZE_SPLIT,
    "lor_by_speed", "fewest_prompts", "backlog_time",
)  # fmt: skip


def ppo_name(beta: float) -> str:
    """Return the name of the learned router at a beta."""
    return f"ppo beta {beta:g}"


def thresholds_text(thresholds: Sequence[float]) -> str:
    """Format thresholds as `1,200 and 3,532 tokens`."""
    return " and ".join(f"{value:,.0f}" for value in thresholds) + " tokens" if thresholds else "default thresholds"


@dataclass(frozen=True)
class ScenarioResults:
    """The results of a scenario.

    thresholds: the tuned ones of size_split, in tokens. values[router][metric]: float64[seeds].
    """

    scenario: Scenario
    thresholds: tuple[float, ...]
    values: Mapping[str, Mapping[str, Floats]]

    @classmethod
    def of(cls, point: PointResults, thresholds: tuple[float, ...]) -> ScenarioResults:
        """Take the figures of a sweep's point at which no simulation failed."""
        values = {
            router: {
                metric: np.array([records[seed].figures[metric] for seed in point.seeds]) for metric in METRICS
            }
            for router, records in point.records.items()
        }  # fmt: skip
        return cls(point.scenario, thresholds, values)

    @property
    def routers(self) -> list[str]:
        return list(self.values)

    def heuristics(self, without: Collection[str] = ()) -> list[str]:
        return [router for router in self.values if router in HEURISTICS and router not in without]

    def mean(self, router: str, metric: str) -> float:
        return float(self.values[router][metric].mean())

    def best(self, metric: str, without: Collection[str] = ()) -> str:
        """Return the heuristic with the best mean over the seeds."""
        sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
        return min(self.heuristics(without), key=lambda router: sign * self.mean(router, metric))

    def difference(self, router: str, baseline: str, metric: str) -> PairedDifference:
        return paired_difference(self.values[router][metric], self.values[baseline][metric], metric in HIGHER_IS_BETTER)

    def ratio(self, router: str, baseline: str, metric: str) -> float:
        """Return the ratio of the means over the seeds."""
        return self.mean(router, metric) / self.mean(baseline, metric)


@dataclass(frozen=True)
class EvaluationResults:
    """The results of all scenarios.

    command: reproduces them. policy: the checkpoint's name; policy_hash: the SHA-256 of its bytes.
    """

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
        """Return a row of plain values for each scenario, router and metric.

        It includes comparisons of the learned router with every heuristic, and of heuristics with least_tokens.
        """
        rows = []
        for point in self.scenarios:
            for router in point.routers:
                learned = router not in HEURISTICS
                baselines = point.heuristics() if learned else [LEAST_TOKENS]
                for metric in METRICS:
                    if np.isnan(point.values[router][metric]).any():
                        continue
                    estimated = estimate(point.values[router][metric])
                    rows.append({
                        "scenario": point.scenario.name,
                        "load": point.scenario.header.load,
                        "replicas": point.scenario.num_replicas,
                        "scheduler": router,
                        "metric": metric,
                        "mean": estimated.mean,
                        "interval": [estimated.low, estimated.high],
                        "values": point.values[router][metric].tolist(),
                        "best_heuristic": point.best(metric),
                        "comparisons": [
                            _comparison(baseline, point.difference(router, baseline, metric)) for baseline in baselines
                        ],
                    })  # fmt: skip
        return rows


def _comparison(baseline: str, difference: PairedDifference) -> dict[str, Any]:
    return {
        "baseline": baseline,
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
        "unit": "percent" if difference.relative else "the metric's",
        "verdict": difference.verdict,
    }
