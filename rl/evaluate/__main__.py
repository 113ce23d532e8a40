"""python -m rl.evaluate: the learned router beside every heuristic, on the same requests, scenario by scenario."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl.evaluate.baselines import HEURISTICS, SIZE_SPLIT
from rl.router.checkpoint import SHIPPED, policy_path
from vidur.atomic import write_text
from vidur.compare.policy import keep_policy
from vidur.config import (
    BaseGlobalSchedulerConfig,
    LookaheadGlobalSchedulerConfig,
    PPOGlobalSchedulerConfig,
    SizeSplitGlobalSchedulerConfig,
)
from vidur.config.base import Config, setting
from vidur.config.tool import parse_tool
from vidur.errors import InputError, unknown_name

if TYPE_CHECKING:
    from rl.evaluate.results import Results
    from vidur.compare.cell import Cell
    from vidur.compare.figures import Figures
    from vidur.compare.scenario import Scenario
    from vidur.compare.store import Outcome
    from vidur.config import SimulationConfig


# Those that the targets are about.
SCENARIOS = ("a79", "a93", "b88", "c72", "hw_88", "m2_88", "m8_90", "m16_90", "r2_93", "r8_93", "r16_93", "code_85",
             "tight_kv", "slow_third")  # fmt: skip


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """Lists are names or numbers with commas between them."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "evaluation"
    help_description: ClassVar[str] = "what is compared, where, and how often"

    checkpoint: str | None = setting(
        None, help="the policy: a file, or a name in data/policies; the shipped one if none"
    )
    scenarios: str = setting("all", help="names in data/scenarios, or YAML files; all: the 14 of the targets")
    betas: str = setting("5,10,40", help="weights of the tail of TTFT that the policy is given, in turns")
    seeds: int = setting(10, help="simulations of each router in each scenario", minimum=2, maximum=100_000)
    first_seed: int = setting(1000, help="the others follow it", minimum=0, maximum=2**31)
    requests: int = setting(
        3000, help="of a simulation of up to four replicas; in proportion where there are more", minimum=40
    )
    metrics: str = setting("mean_e2e,p99_ttft,long_p99_ttft,goodput", help="of --details")
    details: bool = setting(False, help="print every router in every scenario")
    lookahead: bool = setting(False, help="the lookahead too: slow")
    workers: int = setting(0, help="processes; 0: one for each core", minimum=0, maximum=1024)
    output: str = setting(
        "simulator_output/evaluation", help="folder of finished simulations, report.html and results.json"
    )
    markdown: str | None = setting(None, help="write the summary as Markdown too, with its chart as SVG beside it")
    json: str | None = setting(None, help="write every figure as JSON too")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the flags say. Returns 0; 2 for bad input; 130 on Ctrl-C."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        config = parse_tool("python -m rl.evaluate", __doc__ or "", (EvaluateConfig,), given)[0]
        Evaluation(config, given).run()
        return 0
    except InputError as error:
        print(f"rl.evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rl.evaluate: interrupted; the same command goes on from the finished simulations", file=sys.stderr)
        return 130


class Evaluation:
    """One evaluation: its scenarios, its routers, and the folder where finished simulations are kept."""

    def __init__(self, config: EvaluateConfig, argv: Sequence[str] = ()) -> None:
        # These bring in numba: after the flags are known to be good.
        from rl.evaluate.tuning import TUNING_SEEDS
        from vidur.compare.figures import METRICS
        from vidur.compare.scenario import Scenario

        self._config = config
        self._folder = Path(config.output)
        self._betas = _numbers(config.betas, "--betas")
        self._seeds = list(range(config.first_seed, config.first_seed + config.seeds))
        if set(self._seeds) & set(TUNING_SEEDS):
            raise InputError(
                f"--first_seed {config.first_seed}: size_split's thresholds are tuned on seeds "
                f"{', '.join(map(str, TUNING_SEEDS))}: start at {TUNING_SEEDS[-1] + 1} or later"
            )
        self._metrics = _names(config.metrics, "--metrics")
        for metric in self._metrics:
            if metric not in METRICS:
                raise unknown_name("metric", metric, METRICS)
        names = SCENARIOS if config.scenarios == "all" else _names(config.scenarios, "--scenarios")
        self._policy = keep_policy(config.checkpoint, self._folder)
        self._scenarios = [Scenario.read(name) for name in names]

    def run(self) -> Results:
        """Simulate what is missing, print, and write the files."""
        from rl.evaluate.console import print_details, print_summary
        from rl.evaluate.page import write_page_of_results
        from vidur.compare.record import CellRecord
        from vidur.compare.store import figures_of_all

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
            from rl.evaluate.markdown import write_markdown

            write_markdown(Path(self._config.markdown), results)
        records = [outcome for outcome in outcomes if isinstance(outcome, CellRecord)]
        write_page_of_results(self._folder / "report.html", results, cells, records)
        print(f"Report: {self._folder / 'report.html'}")
        return results

    def _simulate(self) -> tuple[list[tuple[float, ...]], list[Cell], list[Outcome]]:
        """size_split's thresholds in each scenario, and every simulation with what came of it."""
        from rl.evaluate.tuning import most_simulations, tune_size_split
        from vidur.compare.capacity import Capacities
        from vidur.compare.executor import ProcessExecutor
        from vidur.compare.progress import SweepProgress
        from vidur.compare.store import CellStore

        requests = self._config.requests
        with ProcessExecutor(self._config.workers) as executor, SweepProgress() as progress:
            progress.stage("capacities", len(self._scenarios))
            clusters = {scenario.name: scenario.config for scenario in self._scenarios}
            Capacities().measure(clusters, executor, progress.advance)
            progress.stage("tuning size_split", most_simulations(len(self._scenarios)))
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
        from rl.evaluate.results import Results, ScenarioResults

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
        from rl.evaluate.results import ppo_name
        from vidur.compare.cell import Cell, workload_digest

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


def _names(text: str, flag: str) -> list[str]:
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not names:
        raise InputError(f"{flag} names nothing: give one name or more, with commas between them")
    return names


def _numbers(text: str, flag: str) -> list[float]:
    """Raises InputError for what is no number of at least 0."""
    numbers = []
    for word in _names(text, flag):
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


if __name__ == "__main__":
    sys.exit(main())
