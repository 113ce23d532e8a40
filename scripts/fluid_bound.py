"""Bound the mean E2E of routing by prompt length, with a fluid model without queueing.

A replica that spends a fraction u of its time on prefill decodes at 1 - u of its speed, so an iteration takes
d / (1 - u), with d the time of a decode iteration of 16 requests, and u the prompt tokens per second times the seconds
per prompt token (hardware facts that routers see). Mean E2E is the mean of output tokens times that. Routers that split
by prompt length give each replica an interval of lengths; a random search finds the best cuts.

Real replicas add queueing, uneven batches and randomness, from which a router that observes them can also gain, so this
is an estimate and not a strict bound.

python scripts/fluid_bound.py [SCENARIO ...]
"""

from __future__ import annotations

import argparse
from itertools import permutations

import numpy as np

from vidur import Simulator
from vidur.compare.scenario import Scenario
from vidur.config import RoundRobinGlobalSchedulerConfig
from vidur.engine.plan import hardware_facts
from vidur.observation import DECODE_SECONDS, PREFILL_SECONDS, Floats
from vidur.request_generator.quantile_table import load_quantile_table

SAMPLE = 200_000
TRIALS = 12_000


class Fluid:
    """The model of one scenario: seconds per decode iteration and per prompt token of each replica, requests/s."""

    def __init__(self, name: str) -> None:
        scenario = Scenario.read(name)
        config = scenario.configure(1, 3000, RoundRobinGlobalSchedulerConfig())
        facts = hardware_facts(Simulator(config).replica_plans)
        self.decode, self.prefill = facts[:, DECODE_SECONDS], facts[:, PREFILL_SECONDS]
        self.rate = scenario.rate
        table = load_quantile_table("azure_conv_2023", "--distribution")
        prompts, outputs = table.sample(SAMPLE, np.random.default_rng(0))
        order = np.argsort(prompts)
        self._prompts = np.concatenate([[0.0], np.cumsum(prompts[order]) / SAMPLE])
        self._outputs = np.concatenate([[0.0], np.cumsum(outputs[order]) / SAMPLE])

    def balanced(self) -> float:
        """Return mean E2E if every replica spends the same fraction of its time on prefill."""
        pace = 1.0 / self.prefill
        share = self.rate * self._prompts[-1] / pace.sum()
        weights = pace / pace.sum()
        return float(self._outputs[-1] * (weights * self.decode).sum() / (1.0 - share))

    def split(self, cuts: Floats, order: tuple[int, ...]) -> float:
        """Return mean E2E if replica order[i] takes the i-th interval of quantiles `cuts`; inf beyond capacity."""
        edges = (np.concatenate([[0.0], np.sort(cuts), [1.0]]) * SAMPLE).astype(np.int64)
        prompts, outputs = np.diff(self._prompts[edges]), np.diff(self._outputs[edges])
        chosen = list(order)
        free = 1.0 - self.rate * prompts * self.prefill[chosen]
        return float((outputs * self.decode[chosen] / free).sum()) if (free > 0.02).all() else np.inf

    def best_split(self) -> float:
        rng = np.random.default_rng(0)
        kinds = sorted(set(zip(self.decode, self.prefill, strict=True)))
        best_split = np.inf
        orders = {tuple(kinds.index((self.decode[i], self.prefill[i])) for i in order): order
                  for order in permutations(range(len(self.decode)))}  # fmt: skip
        for order in orders.values():
            best, cuts = np.inf, rng.random(len(order) - 1)
            for trial in range(TRIALS):
                wide = trial < TRIALS // 4
                tried = rng.random(len(cuts)) if wide else np.clip(cuts + rng.normal(0, 0.02, len(cuts)), 0, 1)
                value = self.split(tried, order)
                if value < best:
                    best, cuts = value, tried
            best_split = min(best_split, best)
        return best_split


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scenarios", nargs="*", default=["a79", "a93", "r2_93", "b88", "m2_88"], metavar="SCENARIO")
    scenarios = parser.parse_args().scenarios
    print("| scenario | balanced, s | best split by prompt length, s |  |")
    print("|---|---|---|---|")
    for name in scenarios:
        fluid = Fluid(name)
        balanced, best = fluid.balanced(), fluid.best_split()
        print(f"| `{name}` | {balanced:.2f} | {best:.2f} | {100 * (best / balanced - 1):+.1f} % |", flush=True)


if __name__ == "__main__":
    main()
