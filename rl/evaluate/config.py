"""The flags of `python -m rl.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import Config, setting

# The scenarios of the targets.
SCENARIOS = ("a79", "a93", "b88", "c72", "hw_88", "m2_88", "m8_90", "m16_90", "r2_93", "r8_93", "r16_93", "code_85",
             "tight_kv", "slow_third")  # fmt: skip


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """The flags of an evaluation; lists are separated by commas."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "evaluation"
    help_description: ClassVar[str] = "the routers, the scenarios, and the number of simulations"

    checkpoint: str | None = setting(
        None, help="the policy: a file, or a name in data/policies; by default the shipped one"
    )
    scenarios: str = setting("all", help="names in data/scenarios, or YAML files; all: the 14 of the targets")
    betas: str = setting("5,10,40", help="weights of the tail of TTFT at which to run the policy")
    seeds: int = setting(10, help="simulations of each router in each scenario", minimum=2, maximum=100_000)
    first_seed: int = setting(1000, help="the first of consecutive seeds", minimum=0, maximum=2**31)
    requests: int = setting(
        3000, help="requests per simulation of up to four replicas; in proportion more for larger clusters", minimum=40
    )
    metrics: str = setting("mean_e2e,p99_ttft,long_p99_ttft,goodput", help="metrics of --details")
    details: bool = setting(False, help="print every router in every scenario")
    lookahead: bool = setting(False, help="run lookahead too, which is slow")
    workers: int = setting(0, help="processes; 0: one per core", minimum=0, maximum=1024)
    output: str = setting(
        "simulator_output/evaluation", help="folder of finished simulations, report.html and results.json"
    )
    markdown: str | None = setting(None, help="Markdown file of the summary, with its chart as SVG beside it")
    json: str | None = setting(None, help="JSON file of all figures")
