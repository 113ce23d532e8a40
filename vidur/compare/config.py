"""The flags of python -m vidur.compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.errors import InputError

AUTO = "auto"
RESUMABLE = "the same command goes on from the finished simulations"
EXECUTORS = ("processes", "ray")


@dataclass(frozen=True)
class CompareConfig(Config):
    """Lists are names or numbers with commas between them."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "sweep"
    help_description: ClassVar[str] = "which schedulers, where, at which loads, and how often"

    scenario: str | None = setting(
        None, help="names in data/scenarios, or YAML files; all: every shipped one. With a sweep file, which of its own"
    )
    schedulers: str = setting("all", help="names; settings after a colon, as ppo:beta=40; all: every one but lookahead")
    lookahead: bool = setting(False, help="lookahead too, the upper reference: slow")
    baseline: str = setting("round_robin", help="the scheduler that the others are compared with")
    load: str | None = setting(None, help="arrival rates over the measured capacity; the scenario's if none")
    qps: str | None = setting(None, help="arrival rates in requests/s, in place of --load")
    replicas: str | None = setting(None, help="numbers of replicas; the scenario's if none. Groups grow in proportion")
    seeds: str = setting(
        "5", help="simulations of each scheduler at each point; auto: until the interval of --metric is narrow enough"
    )
    max_seeds: int = setting(30, help="of --seeds auto: the most", minimum=5, maximum=100_000)
    first_seed: int = setting(1000, help="the others follow it", minimum=0, maximum=2**31)
    requests: int = setting(
        3000, help="of a simulation of up to four replicas; in proportion where there are more", minimum=40
    )
    metric: str = setting("mean_e2e", help="the headline: of the matrix, and of --seeds auto")
    executor: str = setting(
        "processes", help="where simulations run: processes of this machine, or ray", choices=EXECUTORS
    )
    ray_address: str | None = setting(None, help="of --executor ray: an existing cluster; a local one if none")
    workers: int = setting(0, help="processes; 0: one for each core", minimum=0, maximum=1024)
    output: str = setting("simulator_output/compare", help="folder of finished simulations and results")
    markdown: str | None = setting(None, help="write the summary as Markdown too")
    json: str | None = setting(None, help="write a row for each scenario, load, scheduler and metric as JSON too")

    @property
    def num_seeds(self) -> int | None:
        """None for auto."""
        return None if self.seeds == AUTO else int(self.seeds)

    def check(self) -> None:
        if self.seeds != AUTO and not (self.seeds.isdecimal() and 2 <= int(self.seeds) <= 100_000):
            raise InputError(f"--seeds must be a number from 2 to 100000, or {AUTO}, not {self.seeds!r}")
        if self.load is not None and self.qps is not None:
            raise InputError("--load and --qps are two ways to say one thing: give one of them")
        if self.ray_address is not None and self.executor != "ray":
            raise InputError("--ray_address is of --executor ray")

    @property
    def loads(self) -> list[float] | None:
        return None if self.load is None else numbers(self.load, "--load")

    @property
    def rates(self) -> list[float] | None:
        return None if self.qps is None else numbers(self.qps, "--qps")

    @property
    def replica_counts(self) -> list[int] | None:
        if self.replicas is None:
            return None
        counts = numbers(self.replicas, "--replicas")
        if any(count != int(count) for count in counts):
            raise InputError(f"--replicas: expected whole numbers with commas between them, not {self.replicas!r}")
        return [int(count) for count in counts]


def names(text: str, flag: str) -> list[str]:
    """The words of a list. Raises InputError, naming the flag, where there is none."""
    found = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise InputError(f"{flag} names nothing: give one name or more, with commas between them")
    return found


def numbers(text: str, flag: str, zero: bool = False) -> list[float]:
    """The numbers of a list, above 0, or with `zero` at least 0. Raises InputError, naming the flag, for others."""
    found = []
    for word in names(text, flag):
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not (0.0 < value < float("inf") or (zero and value == 0.0)):
            asked = "of at least 0" if zero else "above 0"
            raise InputError(f"{flag}: expected numbers {asked} with commas between them, not {word!r}")
        found.append(value)
    return list(dict.fromkeys(found))
