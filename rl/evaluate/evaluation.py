"""An evaluation: every scenario under the learned router and every heuristic, on the same requests."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl.evaluate.baselines import HEURISTICS, SIZE_SPLIT
from rl.evaluate.config import SCENARIOS, EvaluateConfig
from rl.evaluate.console import print_details, print_summary
from rl.evaluate.markdown import write_markdown
from rl.evaluate.page import write_page_of_results
from rl.evaluate.results import Results, ScenarioResults, ppo_name
from rl.evaluate.tuning import TUNING_SEEDS, most_simulations, tune_size_split
from rl.router.checkpoint import SHIPPED, policy_path
from vidur.atomic import write_text
from vidur.compare.capacity import Capacities
from vidur.compare.cell import Cell, workload_digest
from vidur.compare.config import names
from vidur.compare.executor import ProcessExecutor
from vidur.compare.figures import METRICS, Figures
from vidur.compare.policy import keep_policy
from vidur.compare.record import CellRecord
from vidur.compare.scenario import Scenario
from vidur.compare.store import CellStore, Outcome, figures_of_all
from vidur.config import (
    BaseGlobalSchedulerConfig,
    LookaheadGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    SimulationConfig,
    SizeSplitGlobalSchedulerConfig,
)
from vidur.errors import InputError, unknown_name
from vidur.progress import Progress


class Evaluation:
    """One evaluation: its scenarios, its routers, and the folder where finished simulations are kept."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config
        self._folder = Path(config.output)
        self._betas = _numbers(config.betas, "--betas")
        self._seeds = list(range(config.first_seed, config.first_seed + config.seeds))
        if set(self._seeds) & set(TUNING_SEEDS):
            raise InputError(
                f"--first_seed {config.first_seed}: size_split's thresholds are tuned on seeds "
                f"{', '.join(map(str, TUNING_SEEDS))}: start at {TUNING_SEEDS[-1] + 1} or later"
            )
        self._metrics = names(config.metrics, "--metrics")
        for metric in self._metrics:
            if metric not in METRICS:
                raise unknown_name("metric", metric, METRICS)
        chosen = SCENARIOS if config.scenarios == "all" else names(config.scenarios, "--scenarios")
        self._policy = keep_policy(config.checkpoint, self._folder)
        self._scenarios = [Scenario.read(name) for name in chosen]

    def run(self) -> Results:
        """Simulate what is missing, print, and write the files."""
        thresholds, cells, outcomes = self._simulate()
        results = self._results(thresholds, cells, figures_of_all(cells, outcomes))
        if self._config.details:
            print_details(results, self._metrics)
        print_summary(results)
        text = (
            json.dumps(
                {
                    "command": results.command,
                    "checkpoint": results.policy,
                    "checkpoint_sha256": results.policy_hash,
                    "rows": results.rows(),
                },
                allow_nan=False,
                indent=1,
            )
            + "\n"
        )
        write_text(self._folder / "results.json", text)
        if self._config.json is not None:
            write_text(self._config.json, text)
        if self._config.markdown is not None:
            write_markdown(Path(self._config.markdown), results)
        records = [outcome for outcome in outcomes if isinstance(outcome, CellRecord)]
        write_page_of_results(self._folder / "report.html", results, cells, records)
        print(f"Report: {self._folder / 'report.html'}")
        return results

    def _simulate(self) -> tuple[list[tuple[float, ...]], list[Cell], list[Outcome]]:
        """size_split's thresholds in each scenario, and every simulation with what came of it."""
        requests = self._config.requests
        with (
            ProcessExecutor(self._config.workers) as executor,
            Progress("capacities measured", len(self._scenarios)) as progress,
        ):
            executor.on_wait = progress.tick
            clusters = {scenario.name: scenario.config for scenario in self._scenarios}
            Capacities().measure(clusters, executor, progress.advance)
            progress.stage("simulations to tune size_split", most_simulations(len(self._scenarios)))
            store = CellStore(self._folder / "cells", executor)
            thresholds = tune_size_split(self._scenarios, requests, store, progress.advance)
            cells = [
                cell
                for scenario, its in zip(self._scenarios, thresholds, strict=True)
                for cell in self._cells(scenario, its)
            ]
            progress.stage("simulations", len(cells))
            return thresholds, cells, store.run(cells, progress.advance)

    def _results(
        self, thresholds: Sequence[tuple[float, ...]], cells: Sequence[Cell], figures: Sequence[Figures]
    ) -> Results:
        values: dict[str, dict[str, dict[str, list[float]]]] = {}
        for cell, found in zip(cells, figures, strict=True):
            its_router = values.setdefault(cell.point, {}).setdefault(cell.router, {})
            for metric, value in found.items():
                its_router.setdefault(metric, []).append(value)
        return Results(
            scenarios=[
                ScenarioResults(
                    scenario,
                    its,
                    {
                        router: {metric: np.array(column) for metric, column in columns.items()}
                        for router, columns in values[scenario.name].items()
                    },
                )
                for scenario, its in zip(self._scenarios, thresholds, strict=True)
            ],
            betas=self._betas,
            default_beta=PPOGlobalSchedulerConfig().beta,
            seeds=self._seeds,
            requests=self._config.requests,
            command=_command(self._config),
            policy=SHIPPED if self._config.checkpoint is None else policy_path(self._config.checkpoint).stem,
            policy_hash=self._policy.digest,
        )

    def _cells(self, scenario: Scenario, thresholds: tuple[float, ...]) -> list[Cell]:
        """Every router on every seed."""
        routers: dict[str, BaseGlobalSchedulerConfig] = {
            name: BaseGlobalSchedulerConfig.from_type(name)() for name in HEURISTICS
        }
        routers[SIZE_SPLIT] = SizeSplitGlobalSchedulerConfig(thresholds=thresholds)
        if self._config.lookahead:
            routers["lookahead"] = LookaheadGlobalSchedulerConfig()
        routers |= {
            ppo_name(beta): PPOGlobalSchedulerConfig(checkpoint=self._config.checkpoint, beta=beta)
            for beta in self._betas
        }
        requests = self._config.requests
        plain = {seed: scenario.configure(seed, requests) for seed in self._seeds}
        workloads = {seed: workload_digest(scenario.requests(seed, requests)) for seed in self._seeds}
        return [
            Cell(
                scenario.name, name, seed, _routed(config, router), scenario.objectives, workloads[seed],
                self._policy if isinstance(router, PPOGlobalSchedulerConfig) else None,
            )
            for name, router in routers.items()
            for seed, config in plain.items()
        ]  # fmt: skip


def _routed(config: SimulationConfig, router: BaseGlobalSchedulerConfig) -> SimulationConfig:
    cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
    return dataclasses.replace(config, cluster_config=cluster)


def _command(config: EvaluateConfig) -> str:
    """What gives the same figures: the flags that differ from their defaults and matter to them."""
    words = ["python", "-m", "rl.evaluate"]
    for name in ("checkpoint", "scenarios", "betas", "seeds", "first_seed", "requests", "lookahead"):
        value = getattr(config, name)
        if value != getattr(EvaluateConfig(), name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def _numbers(text: str, flag: str) -> list[float]:
    """Raises InputError for what is no number of at least 0."""
    numbers = []
    for word in names(text, flag):
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0.0 <= value < float("inf"):
            raise InputError(
                f"{flag}: expected numbers of at least 0 with commas between them, as 5,10,40, not {word!r}"
            )
        numbers.append(value)
    return list(dict.fromkeys(numbers))
