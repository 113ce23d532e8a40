"""The replicas behind the router, and what is known of their hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np

from rl.vllm.http.wire import authority
from vidur.config.base import Config, setting
from vidur.errors import InputError
from vidur.observation import (
    DECODE_SECONDS,
    GROUP_INDEX,
    HARDWARE_COLUMNS,
    KV_TOKENS,
    MAX_BATCH_SIZE,
    PREFILL_SECONDS,
    SPEED,
    Floats,
)

# What is assumed of a group that says nothing: Llama-3-8B on an A100, and vLLM's own max_num_seqs.
DEFAULT_PREFILL_SECONDS, DEFAULT_DECODE_SECONDS = 6.6e-5, 0.0127
DEFAULT_KV_TOKENS, DEFAULT_MAX_BATCH_SIZE = 475_136, 256

# The work that relative speed is measured on, as of vidur.plans: a prompt, then outputs in a batch.
_PROMPT, _ITERATIONS = 1024, 16

# What a replica is up to: it takes requests; it finishes those it has.
SERVING, DRAINING = "serving", "draining"


@dataclass(frozen=True)
class HardwareGroupConfig(Config):
    """Facts on like replicas. What is None is measured where that is possible, else assumed."""

    flag_prefix: ClassVar[str | None] = "groups"
    flag_separator: ClassVar[str] = ": "

    name: str = setting(help="the group's name, to which replicas refer")
    speed: float | None = setting(
        None, help="relative to the fastest group; from the seconds below if none", above=0, maximum=1
    )
    kv_tokens: int | None = setting(
        None, help="tokens that the KV-cache holds; as the replica reports if none", above=0
    )
    max_batch_size: int | None = setting(None, help="requests in a batch (vLLM's max_num_seqs)", above=0)
    prefill_seconds: float | None = setting(None, help="to read a prompt token, in a prompt of 1,024", above=0)
    decode_seconds: float | None = setting(None, help="of an iteration of 16 requests in decode", above=0)

    @property
    def reference_seconds(self) -> float:
        """Of the work on which relative speed is measured."""
        prefill = DEFAULT_PREFILL_SECONDS if self.prefill_seconds is None else self.prefill_seconds
        decode = DEFAULT_DECODE_SECONDS if self.decode_seconds is None else self.decode_seconds
        return _PROMPT * prefill + _ITERATIONS * decode


@dataclass(frozen=True)
class VllmReplicaConfig(Config):
    """One vLLM server."""

    flag_prefix: ClassVar[str | None] = "replica"
    flag_separator: ClassVar[str] = ": "

    url: str = setting(help="where it listens: http://host:port, with the path before /v1 if there is one")
    name: str | None = setting(None, help="what it is called in metrics and logs; host:port if none")
    group: str | None = setting(None, help="its hardware group; the first, or a default one, if none")

    def check(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise InputError(f"{self.flag('url')}: {self.url!r} has no host:port that can be: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{self.flag('url')}: expected http://host:port, not {self.url!r}")
        if port == 0 or " " in self.url or not self.url.isprintable():
            raise InputError(f"{self.flag('url')}: {self.url!r} has port 0, or characters that no URL has")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise InputError(f"{self.flag('url')}: {self.url!r} has a query, a fragment or a user: leave it out")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if self.name is None:
            object.__setattr__(self, "name", authority(parts.hostname, port))
        elif not self.name or not self.name.isprintable():
            raise InputError(f"{self.flag('name')}: expected printable characters, not {self.name!r}")

    @property
    def label(self) -> str:
        assert self.name is not None
        return self.name


@dataclass
class ServedReplica:
    """A replica at run time. `group` is its hardware group's number; kv_tokens is what it has reported, or None."""

    config: VllmReplicaConfig
    group: int
    state: str = SERVING
    kv_tokens: int | None = None

    @property
    def name(self) -> str:
        return self.config.label

    @property
    def url(self) -> str:
        return self.config.url


@dataclass
class Fleet:
    """The replicas in the order of the router's arrays. Where one is removed those after it move up: keep the
    ServedReplica, not its number."""

    groups: tuple[HardwareGroupConfig, ...]
    replicas: list[ServedReplica] = field(default_factory=list)

    def make(self, config: VllmReplicaConfig) -> ServedReplica:
        """A replica that may join. Raises InputError for a name or URL that is taken, and for a group that is not
        there."""
        for replica in self.replicas:
            if replica.name == config.label:
                raise InputError(f"replica {config.label}: the name is taken by {replica.url}: give it another")
            if replica.url == config.url:
                raise InputError(f"replica {config.label}: {config.url} is the replica {replica.name} already")
        return ServedReplica(config, self._group(config))

    def number(self, name: str) -> int:
        """The number of the replica of that name. Raises InputError if there is none."""
        for number, replica in enumerate(self.replicas):
            if replica.name == name:
                return number
        names = ", ".join(replica.name for replica in self.replicas)
        raise InputError(f"there is no replica {name!r}; there are {names or 'none'}")

    def _group(self, config: VllmReplicaConfig) -> int:
        names = [group.name for group in self.groups]
        if config.group is None:
            return 0
        if config.group not in names:
            raise InputError(f"replica {config.label}: there is no group {config.group!r}: add it to the groups")
        return names.index(config.group)

    def hardware(self) -> Floats:
        """float64[replicas, HARDWARE_COLUMNS], made anew: what a router is told of the hardware."""
        return hardware_facts(self.groups, self.replicas)


def hardware_facts(groups: Sequence[HardwareGroupConfig], replicas: Sequence[ServedReplica]) -> Floats:
    """float64[replicas, HARDWARE_COLUMNS], as vidur.engine.state has it for simulated replicas."""
    used = [groups[replica.group] if groups else HardwareGroupConfig("default") for replica in replicas]
    fastest = min((group.reference_seconds for group in used), default=1.0)
    facts = np.zeros((len(replicas), HARDWARE_COLUMNS))
    for row, replica, group in zip(facts, replicas, used, strict=True):
        row[SPEED] = fastest / group.reference_seconds if group.speed is None else group.speed
        row[KV_TOKENS] = group.kv_tokens or replica.kv_tokens or DEFAULT_KV_TOKENS
        row[MAX_BATCH_SIZE] = group.max_batch_size or DEFAULT_MAX_BATCH_SIZE
        row[GROUP_INDEX] = replica.group
        row[PREFILL_SECONDS] = group.prefill_seconds or DEFAULT_PREFILL_SECONDS / row[SPEED]
        row[DECODE_SECONDS] = group.decode_seconds or DEFAULT_DECODE_SECONDS / row[SPEED]
    if len(facts):
        facts[:, SPEED] /= facts[:, SPEED].max()
    return facts
