"""python -m rl.evaluate: the learned router beside every heuristic, on the same requests, scenario by scenario."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl.baselines import HEURISTICS, SIZE_SPLIT
from rl.checkpoint import SHIPPED, Checkpoint, policy_path
from vidur.atomic import write_bytes, write_text
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
    from rl.evaluation_cells import Cell
    from rl.evaluation_results import Results
    from rl.evaluation_scenario import Scenario
    from vidur.config import SimulationConfig


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """Lists are names or numbers with commas between them."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "evaluation"
    help_description: ClassVar[str] = "what is compared, where, and how often"

    checkpoint: str | None = setting(
        None, help="the policy: a file, or a name in data/policies; the shipped one if none"
    )
    scenarios: str = setting("all", help="names in data/scenarios, or YAML files; all: every shipped one")
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
        from rl.evaluation_cells import METRICS, CellStore
        from rl.evaluation_scenario import Scenario, scenario_names
        from rl.evaluation_tuning import TUNING_SEEDS

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
        names = scenario_names() if config.scenarios == "all" else _names(config.scenarios, "--scenarios")
        self._policy_name, self._policy = _read_policy(config.checkpoint)
        self._policy_hash = hashlib.sha256(self._policy).hexdigest()
        self._scenarios = [Scenario.read(name) for name in names]
        self._store = CellStore(self._folder / "cells", config.workers)

    def run(self) -> Results:
        """Simulate what is missing, print, and write the files."""
        from rl.evaluation_console import print_details, print_summary
        from rl.evaluation_page import write_page_of_results

        results = self._results()
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
            from rl.evaluation_markdown import write_markdown

            write_markdown(Path(self._config.markdown), results)
        write_page_of_results(self._folder / "report.html", results)
        print(f"Report: {self._folder / 'report.html'}")
        return results

    def _results(self) -> Results:
        from rl.evaluation_results import Results, ScenarioResults
        from rl.evaluation_tuning import most_simulations, tune_size_split

        requests = self._config.requests
        with _Progress(most_simulations(len(self._scenarios))) as progress:
            thresholds = tune_size_split(self._scenarios, requests, self._store, progress.advance)
            cells = [
                cell
                for scenario, its in zip(self._scenarios, thresholds, strict=True)
                for cell in self._cells(scenario, its)
            ]
            progress.stage("simulations", len(cells))
            figures = self._store.run(cells, progress.advance)
        values: dict[str, dict[str, dict[str, list[float]]]] = {}
        for cell, found in zip(cells, figures, strict=True):
            its_router = values.setdefault(cell.scenario, {}).setdefault(cell.router, {})
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
            requests=requests,
            command=_command(self._config),
            policy=self._policy_name,
            policy_hash=self._policy_hash,
        )

    def _cells(self, scenario: Scenario, thresholds: tuple[float, ...]) -> list[Cell]:
        """Every router on every seed. A policy is read from a copy, which training in the meantime leaves alone."""
        from rl.evaluation_cells import Cell
        from rl.evaluation_results import ppo_name

        copy = self._folder / "policies" / f"{self._policy_hash[:16]}.safetensors"
        if not copy.is_file():
            write_bytes(copy, self._policy)
        routers: dict[str, BaseGlobalSchedulerConfig] = {
            name: BaseGlobalSchedulerConfig.from_type(name)() for name in HEURISTICS
        }
        routers[SIZE_SPLIT] = SizeSplitGlobalSchedulerConfig(thresholds=thresholds)
        if self._config.lookahead:
            routers["lookahead"] = LookaheadGlobalSchedulerConfig()
        routers |= {ppo_name(beta): PPOGlobalSchedulerConfig(checkpoint=str(copy), beta=beta) for beta in self._betas}
        plain = {seed: scenario.configure(seed, self._config.requests) for seed in self._seeds}
        return [
            Cell(scenario.name, name, seed, _routed(config, router), scenario.objectives, self._policy_hash)
            for name, router in routers.items()
            for seed, config in plain.items()
        ]


class _Progress:
    """Counts simulations on stderr, on a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("tuning size_split", total=self._total)
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def stage(self, what: str, total: int) -> None:
        self._progress.reset(self._task, description=what, total=total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)


def _routed(config: SimulationConfig, router: BaseGlobalSchedulerConfig) -> SimulationConfig:
    cluster = dataclasses.replace(config.cluster_config, global_scheduler_config=router)
    return dataclasses.replace(config, cluster_config=cluster)


def _read_policy(name: str | None) -> tuple[str, bytes]:
    """The name and the bytes of a checkpoint that can be used. Raises InputError."""
    path = policy_path(name)
    Checkpoint.load(path)
    return SHIPPED if name is None else path.stem, path.read_bytes()


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
