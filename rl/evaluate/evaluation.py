"""Run an evaluation: sweep the learned router and every heuristic, then report."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

from rl.evaluate.config import SCENARIOS, EvaluateConfig
from rl.evaluate.console import print_details, print_summary
from rl.evaluate.markdown import write_markdown
from rl.evaluate.page import write_page_of_results
from rl.evaluate.results import HEURISTICS, LEAST_TOKENS, EvaluationResults, ScenarioResults, ppo_name
from rl.router.checkpoint import SHIPPED, policy_path
from vidur.atomic import write_text
from vidur.compare.config import CompareConfig, names, numbers
from vidur.compare.figures import METRICS
from vidur.compare.results import Results
from vidur.compare.scenario import Scenario
from vidur.compare.sweep import Sweep, make_executor
from vidur.compare.sweep_file import Entry, SweepFile
from vidur.compare.tuning import TUNING_SEEDS
from vidur.config import BaseGlobalSchedulerConfig, LookaheadGlobalSchedulerConfig, PPOGlobalSchedulerConfig
from vidur.errors import InputError, unknown_name


def evaluate(config: EvaluateConfig) -> None:
    """Run the missing simulations, print the results and write the files. Raises InputError."""
    metrics = names(config.metrics, "--metrics")
    for metric in metrics:
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
    swept, betas = _sweep_config(config), numbers(config.betas, "--betas", zero=True)
    chosen = SCENARIOS if config.scenarios == "all" else names(config.scenarios, "--scenarios")
    entries = tuple(Entry(Scenario.read(name)) for name in chosen)
    title = "The learned router and the heuristics"
    sweep = Sweep(swept, SweepFile(title, {}, entries), schedulers=_routers(config, betas), tune=True)
    with make_executor(swept) as executor:
        compared = dataclasses.replace(sweep.run(executor), command=_command(config))
    for failure in compared.failures:
        raise InputError(f"{failure.command}: {failure.error}")
    results = EvaluationResults(
        scenarios=[ScenarioResults.of(point, sweep.thresholds[point.scenario.label]) for point in compared.points],
        betas=betas,
        default_beta=PPOGlobalSchedulerConfig().beta,
        seeds=compared.points[0].seeds,
        requests=config.requests,
        command=compared.command,
        policy=SHIPPED if config.checkpoint is None else policy_path(config.checkpoint).stem,
        policy_hash=compared.policies[ppo_name(betas[0])],
    )
    if config.details:
        print_details(results, metrics)
    print_summary(results)
    _write(config, results, compared)


def _sweep_config(config: EvaluateConfig) -> CompareConfig:
    if set(range(config.first_seed, config.first_seed + config.seeds)) & set(TUNING_SEEDS):
        raise InputError(
            f"--first_seed {config.first_seed}: size_split's thresholds are tuned on seeds "
            f"{', '.join(map(str, TUNING_SEEDS))}: start at {TUNING_SEEDS[-1] + 1} or later"
        )
    return CompareConfig(
        baseline=LEAST_TOKENS,
        seeds=str(config.seeds),
        first_seed=config.first_seed,
        requests=config.requests,
        workers=config.workers,
        output=config.output,
    )


def _routers(config: EvaluateConfig, betas: list[float]) -> dict[str, BaseGlobalSchedulerConfig]:
    routers: dict[str, BaseGlobalSchedulerConfig] = {
        name: BaseGlobalSchedulerConfig.from_type(name)() for name in HEURISTICS
    }
    if config.lookahead:
        routers["lookahead"] = LookaheadGlobalSchedulerConfig()
    learned = {ppo_name(beta): PPOGlobalSchedulerConfig(checkpoint=config.checkpoint, beta=beta) for beta in betas}
    return routers | learned


def _write(config: EvaluateConfig, results: EvaluationResults, compared: Results) -> None:
    document = {
        "command": results.command,
        "checkpoint": results.policy,
        "checkpoint_sha256": results.policy_hash,
        "rows": results.rows(),
    }
    folder = Path(config.output)
    for path in (folder / "results.json", *([Path(config.json)] if config.json is not None else [])):
        write_text(path, json.dumps(document, allow_nan=False, indent=1) + "\n")
    if config.markdown is not None:
        write_markdown(Path(config.markdown), results)
    write_page_of_results(folder / "report.html", results, compared)
    print(f"Report: {folder / 'report.html'}")


def _command(config: EvaluateConfig) -> str:
    """Return the command that reproduces the figures."""
    words = ["python", "-m", "rl.evaluate"]
    for name in ("checkpoint", "scenarios", "betas", "seeds", "first_seed", "requests", "lookahead"):
        value = getattr(config, name)
        if value != getattr(EvaluateConfig(), name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)
