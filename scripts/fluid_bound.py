"""How low mean E2E can go where requests are told apart by their prompts alone: a fluid model, without any queueing.

A replica that reads prompts for a share u of its time decodes at 1 - u of its pace, so an iteration takes d / (1 - u):
d a decode iteration of 16 requests, u its prompt tokens per second times the seconds of a prompt token (both of the
hardware facts that routers see). Mean E2E is then the mean over requests of output tokens x that. Routers that split by
prompt length give each replica an interval of lengths; the best cuts are found by random search.

Real replicas add queueing, uneven batches and chance; a router that watches them can gain from chance too. So this is a
yardstick and no strict bound.

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
    """The model of one scenario: replicas' seconds of a decode iteration and of a prompt token, requests a second."""

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
        """Every replica reads prompts for the same share of its time."""
        pace = 1.0 / self.prefill
        share = self.rate * self._prompts[-1] / pace.sum()
        weights = pace / pace.sum()
        return float(self._outputs[-1] * (weights * self.decode).sum() / (1.0 - share))

    def split(self, cuts: Floats, order: tuple[int, ...]) -> float:
        """Mean E2E where replica order[i] takes the i-th interval of the quantiles `cuts`; inf beyond capacity."""
        edges = (np.concatenate([[0.0], np.sort(cuts), [1.0]]) * SAMPLE).astype(np.int64)
        prompts, outputs = np.diff(self._prompts[edges]), np.diff(self._outputs[edges])
        chosen = list(order)
        free = 1.0 - self.rate * prompts * self.prefill[chosen]
        return float((outputs * self.decode[chosen] / free).sum()) if (free > 0.02).all() else np.inf

    def best_split(self) -> float:
        rng = np.random.default_rng(0)
        kinds = sorted(set(zip(self.decode, self.prefill, strict=True)))
        found = np.inf
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
            found = min(found, best)
        return found


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
