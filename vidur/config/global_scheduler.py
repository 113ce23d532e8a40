"""Configurations of routers (upstream: global schedulers)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from vidur.config.base import PolyConfig, setting
from vidur.errors import InputError

EXPECTED_OUTPUT_HELP = "output tokens expected of a request before any completion"


@dataclass(frozen=True)
class BaseGlobalSchedulerConfig(PolyConfig):
    type_flag: ClassVar[str] = "global_scheduler_config_type"

    @classmethod
    def from_type(cls, name: str, where: str | None = None) -> type[BaseGlobalSchedulerConfig]:
        """Return the class of a type name; a name with a colon is the path of a user's class."""
        if ":" in name:
            return CustomGlobalSchedulerConfig
        member = super().from_type(name, where)
        assert issubclass(member, BaseGlobalSchedulerConfig)
        return member


@dataclass(frozen=True)
class RandomGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "random"
    description: ClassVar[str] = "a replica at random"


@dataclass(frozen=True)
class RoundRobinGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "round_robin"
    description: ClassVar[str] = "each replica in turn"


@dataclass(frozen=True)
class LORGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "lor"
    description: ClassVar[str] = "the replica with the fewest requests"

    count: str = setting(
        "outstanding",
        help="requests counted: outstanding (waiting and running), or waiting (upstream's rule: idle replicas tie)",
        choices=("outstanding", "waiting"),
    )


@dataclass(frozen=True)
class LORBySpeedGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "lor_by_speed"
    description: ClassVar[str] = "the replica with the fewest requests, divided by its speed"


@dataclass(frozen=True)
class PowerOfTwoGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "power_of_two"
    description: ClassVar[str] = "the less loaded of two replicas at random"


@dataclass(frozen=True)
class LeastTokensGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "least_tokens"
    description: ClassVar[str] = "the replica with the least outstanding work in tokens, divided by its speed"

    expected_output_tokens: float = setting(256.0, help=EXPECTED_OUTPUT_HELP, minimum=0)


@dataclass(frozen=True)
class FewestPromptsGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "fewest_prompts"
    description: ClassVar[str] = "the replica with the fewest prompt tokens awaiting prefill, divided by its speed"


@dataclass(frozen=True)
class BacklogTimeGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "backlog_time"
    description: ClassVar[str] = "the replica with the least outstanding work in seconds on its hardware"

    expected_output_tokens: float = setting(256.0, help=EXPECTED_OUTPUT_HELP, minimum=0)


@dataclass(frozen=True)
class LeastKvCacheGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "least_kv_cache"
    description: ClassVar[str] = "the replica with the lowest KV-cache usage"


@dataclass(frozen=True)
class WeightedRoundRobinGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "weighted_round_robin"
    description: ClassVar[str] = "each replica in turn, in proportion to its speed"


@dataclass(frozen=True)
class SizeSplitGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "size_split"
    description: ClassVar[str] = "dedicated replicas for long prompts, least_tokens within each class"

    thresholds: tuple[float, ...] = setting(
        (), help="ascending prompt lengths that separate the classes; if none, derived from the workload", above=0
    )
    expected_output_tokens: float = setting(256.0, help=EXPECTED_OUTPUT_HELP, minimum=0)

    def check(self) -> None:
        if any(low >= high for low, high in zip(self.thresholds, self.thresholds[1:], strict=False)):
            raise InputError(f"{self.flag('thresholds')} must ascend, not {' '.join(map(str, self.thresholds))}")


@dataclass(frozen=True)
class SessionHashGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "session_hash"
    description: ClassVar[str] = "all requests of a session on one replica"


@dataclass(frozen=True)
class LookaheadGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "lookahead"
    description: ClassVar[str] = "simulates each replica with and without the request, takes the least added latency"

    beta: float = setting(5.0, help="weight of TTFT relative to E2E", minimum=0)
    expected_output_tokens: float = setting(256.0, help=EXPECTED_OUTPUT_HELP, minimum=0)


@dataclass(frozen=True)
class CustomGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    """A user's router. `--global_scheduler_config_type module:Class` chooses this type and sets `scheduler`."""

    type_name: ClassVar[str] = "custom"
    description: ClassVar[str] = "your own class; shorter: --global_scheduler_config_type FILE.py:CLASS"

    scheduler: str = setting("", help="where the class is: module:Class or file.py:Class")
    options: str = setting("{}", help="a JSON object passed to the class")

    def check(self) -> None:
        module, _, name = self.scheduler.rpartition(":")
        if not module or not name.isidentifier():
            raise InputError(f"{self.flag('scheduler')} must be module:Class or file.py:Class, not '{self.scheduler}'")
        try:
            options = json.loads(self.options)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{self.flag('options')} is not JSON: {error}") from None
        if not isinstance(options, dict):
            raise InputError(f"{self.flag('options')} must be a JSON object, not {self.options}")

    @property
    def parsed_options(self) -> dict[str, Any]:
        options: dict[str, Any] = json.loads(self.options)
        return options
