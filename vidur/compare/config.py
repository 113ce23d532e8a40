"""Flags of python -m vidur.compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.errors import InputError

AUTO = "auto"
RESUMABLE = "the same command continues from the finished simulations"
EXECUTORS = ("processes", "ray")


@dataclass(frozen=True)
class CompareConfig(Config):
    """The flags of a sweep. Lists are separated by commas."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "sweep"
    help_description: ClassVar[str] = "schedulers, scenarios, loads and seeds to compare"

    scenario: str | None = setting(
        None, help="names in data/scenarios, or YAML files; all: every built-in one; with a sweep file, which of its"
    )
    schedulers: str = setting(
        "all",
        help="names, with settings after a colon, as ppo:beta=40; all: those that know loads, but lookahead; "
        "cache: those that know prefix caches",
    )
    lookahead: bool = setting(False, help="also lookahead, an upper reference: slow")
    baseline: str = setting("round_robin", help="the scheduler that the others are compared with")
    load: str | None = setting(None, help="arrival rates over the measured capacity; the scenario's if none")
    qps: str | None = setting(None, help="arrival rates in requests/s, instead of --load")
    replicas: str | None = setting(None, help="numbers of replicas; the scenario's if none; groups grow in proportion")
    seeds: str = setting(
        "5", help="simulations of each scheduler at each point; auto: until the interval of --metric is narrow enough"
    )
    max_seeds: int = setting(30, help="most seeds of --seeds auto", minimum=5, maximum=100_000)
    first_seed: int = setting(1000, help="the first of the consecutive seeds", minimum=0, maximum=2**31)
    requests: int = setting(
        3000, help="requests of a simulation with up to four replicas; in proportion for more", minimum=40
    )
    metric: str = setting("mean_e2e", help="the metric of the printed matrix and of --seeds auto")
    executor: str = setting(
        "processes", help="where simulations run: processes of this machine, or ray", choices=EXECUTORS
    )
    ray_address: str | None = setting(None, help="address of an existing Ray cluster; a local one if none")
    workers: int = setting(0, help="processes; 0: one per core", minimum=0, maximum=1024)
    output: str = setting("simulator_output/compare", help="folder of finished simulations and results")
    markdown: str | None = setting(None, help="also write the summary to this Markdown file")
    json: str | None = setting(None, help="also write the results to this JSON file")

    @property
    def num_seeds(self) -> int | None:
        """None for auto."""
        return None if self.seeds == AUTO else int(self.seeds)

    def check(self) -> None:
        if self.seeds != AUTO and not (self.seeds.isdecimal() and 2 <= int(self.seeds) <= 100_000):
            raise InputError(f"--seeds must be a number from 2 to 100000, or {AUTO}, not {self.seeds!r}")
        if self.load is not None and self.qps is not None:
            raise InputError("--load and --qps both set the arrival rate: give one of them")
        if self.ray_address is not None and self.executor != "ray":
            raise InputError("--ray_address needs --executor ray")

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
    """Split a list into its distinct words. Raises InputError, naming the flag, if there are none."""
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{flag} names nothing: give one name or more, with commas between them")
    return words


def numbers(text: str, flag: str, zero: bool = False) -> list[float]:
    """Split a list into distinct numbers above 0 (or at least 0 with `zero`). Raises InputError, naming the flag."""
    values = []
    for word in names(text, flag):
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not (0.0 < value < float("inf") or (zero and value == 0.0)):
            asked = "of at least 0" if zero else "above 0"
            raise InputError(f"{flag}: expected numbers {asked} with commas between them, not {word!r}")
        values.append(value)
    return list(dict.fromkeys(values))
