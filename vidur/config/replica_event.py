"""Timed events: a replica slows, fails, returns, joins or drains."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.errors import InputError

ACTIONS = ("slow", "fail", "return", "join", "drain")


@dataclass(frozen=True)
class ReplicaEventConfig(Config):
    """At `time` (seconds), `replica` (its number) takes an `action`:

    slow: its iteration times are multiplied by `factor` from then on, 1 restores them; fail: it is gone, and its
    unfinished requests are routed again from the start; return: it is back after a failure or a drain; join: it is
    absent until then; drain: it takes no new request and finishes those it has.
    """

    flag_prefix: ClassVar[str | None] = "cluster_config_replica_events"
    flag_separator: ClassVar[str] = ": "

    time: float = setting(dataclasses.MISSING, help="seconds from the start", minimum=0)
    replica: int = setting(dataclasses.MISSING, help="the replica's number, from 0", minimum=0)
    action: str = setting(dataclasses.MISSING, help="slow, fail, return, join or drain", choices=ACTIONS)
    factor: float = setting(1.0, help="of slow: multiplies the iteration times", above=0)

    def check(self) -> None:
        if self.factor != 1 and self.action != "slow":
            raise InputError(f"{self.flag('factor')} belongs to the action slow, not to {self.action}")
