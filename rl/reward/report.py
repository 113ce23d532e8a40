"""python -m rl.reward_report: test whether a reward can tell better schedulers and choices from worse ones.

Schedulers of known quality are simulated. The report shows their rewards, whether these rank them as mean E2E does, and
how well a decision's reward reflects the advantage of its choice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rl.reward.verdict import HEADINGS, facts, rows
from vidur.config import PPOGlobalSchedulerConfig, SimulationConfig
from vidur.config.base import Config, setting
from vidur.errors import InputError, unknown_name
from vidur.progress import Progress
from vidur.tool import run_tool

if TYPE_CHECKING:
    from rl.reward.study import RewardFigures

# The default of --config: the lengths of Azure's conversations on four A100s, at 79 % of their capacity.
_DEFAULT: dict[str, Any] = {
    "cluster_config": {
        "num_replicas": 4,
        "replica_config": {"model_name": "meta-llama/Meta-Llama-3-8B", "device": "a100"},
    },
    "request_generator_config": {
        "type": "synthetic",
        "length_generator_config": {"type": "quantile", "distribution": "azure_conv_2023", "max_tokens": 16384},
        "interval_generator_config": {"type": "poisson", "qps": 22},
    },
}
_FIRST_SEED = 1000


@dataclass(frozen=True)
class RewardReportConfig(Config):
    """The rewards of a report, and the simulations that test them."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "reward report"
    help_description: ClassVar[str] = "the rewards, and the simulations that test them"

    reward: tuple[str, ...] = setting(("marginal_cost",), help="names in data/rewards, or YAML files")
    config: str | None = setting(
        None, help="YAML of vidur.main; by default four A100s that serve Azure's conversations"
    )
    qps: float | None = setting(None, help="requests per second, in place of the configuration's", above=0)
    requests: int = setting(2000, help="requests per simulation", minimum=20)
    seeds: int = setting(3, help="simulations of each scheduler", minimum=1)
    members: int = setting(4, help="simulations of the random scheduler per seed", minimum=1)
    schedulers: tuple[str, ...] = setting(
        ("round_robin", "random", "lor", "least_tokens", "lookahead"), help="schedulers to compare"
    )
    beta: float = setting(10.0, help="weight of the tail of TTFT in the cost", minimum=0)
    progress: float = setting(0.0, help="progress of the training, for schedules", minimum=0, maximum=1)
    output: str = setting("simulator_output/reward_report", help="folder of report.html, or the file itself")


def main(argv: Sequence[str] | None = None) -> int:
    """Report as the flags say and return the exit status."""
    return run_tool("rl.reward_report", (RewardReportConfig,), _report, argv, description=__doc__ or "")


def _report(config: RewardReportConfig) -> None:
    try:
        report(config)
    except InputError as error:
        # The flag has no prefix here.
        raise InputError(str(error).replace(PPOGlobalSchedulerConfig.flag("reward"), "--reward")) from None


def report(config: RewardReportConfig) -> list[RewardFigures]:
    """Run the simulations, print the tables and write the page. Raises InputError."""
    from rl.reward.reward import Reward, RewardConfig

    rewards = [RewardConfig.load(name) for name in config.reward]
    path = config.config
    simulated = SimulationConfig.from_dict(_DEFAULT) if path is None else SimulationConfig.from_file(path)

    # Import numba only after the flags are checked.
    from rl.reward.page import write_reward_page
    from rl.reward.study import judge, run_episodes, workload
    from rl.simulate.demonstrations import scheduler_names
    from vidur.report.page import page_path

    for name in config.schedulers:
        if name not in scheduler_names():
            raise unknown_name("--schedulers", name, scheduler_names())
    simulated = workload(simulated, config.qps, config.requests, _FIRST_SEED)
    seeds = range(_FIRST_SEED, _FIRST_SEED + config.seeds)
    with Progress("simulations run") as progress:
        episodes = run_episodes(simulated, config.schedulers, seeds, config.members, config.beta, progress.advance)
    figures = [judge(Reward(reward), episodes, config.schedulers, config.progress) for reward in rewards]
    for reward_figures in figures:
        print_figures(reward_figures)
    page = page_path(config.output)
    write_reward_page(page, config, simulated, figures, episodes)
    print(f"Report: {page}")
    return figures


def print_figures(figures: RewardFigures) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    table = Table(
        title=f"Reward {figures.reward}", title_justify="left", title_style="bold", pad_edge=False,
        box=box.SIMPLE_HEAD if console.is_terminal else None,
    )  # fmt: skip
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows(figures):
        table.add_row(*row)
    console.print(table)
    for label, text in facts(figures):
        console.print(f"{label + ':':20} {text}", soft_wrap=True)
    console.print()


if __name__ == "__main__":
    sys.exit(main())
