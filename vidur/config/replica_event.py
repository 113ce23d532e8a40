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
    """An `action` that happens to `replica` (its number) at `time` (seconds).

    slow: multiply its iteration times by `factor` from now on (1 restores them). fail: remove it; its unfinished
    requests are routed again from the start. return: bring it back after a failure or a drain. join: add it; it is
    absent until then. drain: give it no new requests while it finishes those it has.
    """

    flag_prefix: ClassVar[str | None] = "cluster_config_replica_events"
    flag_separator: ClassVar[str] = ": "

    time: float = setting(dataclasses.MISSING, help="seconds from the start", minimum=0)
    replica: int = setting(dataclasses.MISSING, help="the replica's number, from 0", minimum=0)
    action: str = setting(dataclasses.MISSING, help="slow, fail, return, join or drain", choices=ACTIONS)
    factor: float = setting(1.0, help="multiplies the iteration times (action slow)", above=0)

    def check(self) -> None:
        if self.factor != 1 and self.action != "slow":
            raise InputError(f"{self.flag('factor')} belongs to the action slow, not to {self.action}")
