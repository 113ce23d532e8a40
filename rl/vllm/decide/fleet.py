"""The replicas behind the router, and their hardware."""

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

# The defaults of a group: Llama-3-8B on an A100, and vLLM's default of max_num_seqs.
DEFAULT_PREFILL_SECONDS, DEFAULT_DECODE_SECONDS = 6.6e-5, 0.0127
DEFAULT_KV_TOKENS, DEFAULT_MAX_BATCH_SIZE = 475_136, 256

# The work that defines relative speed, as in vidur.plans: prompt tokens to prefill, then decode iterations.
_PROMPT, _ITERATIONS = 1024, 16

SERVING, DRAINING = "serving", "draining"


@dataclass(frozen=True)
class HardwareGroupConfig(Config):
    """The hardware of equal replicas. None is measured if possible, otherwise a default."""

    flag_prefix: ClassVar[str | None] = "groups"
    flag_separator: ClassVar[str] = ": "

    name: str = setting(help="name of the group, which replicas refer to")
    speed: float | None = setting(
        None, help="speed relative to the fastest group; by default from the seconds below", above=0, maximum=1
    )
    kv_tokens: int | None = setting(
        None, help="tokens that the KV-cache holds; by default as the replica reports", above=0
    )
    max_batch_size: int | None = setting(None, help="requests in a batch (vLLM's max_num_seqs)", above=0)
    prefill_seconds: float | None = setting(None, help="seconds per prompt token, in a prompt of 1,024", above=0)
    decode_seconds: float | None = setting(None, help="seconds of an iteration that decodes 16 requests", above=0)

    @property
    def reference_seconds(self) -> float:
        """Seconds of the work that defines relative speed."""
        prefill = DEFAULT_PREFILL_SECONDS if self.prefill_seconds is None else self.prefill_seconds
        decode = DEFAULT_DECODE_SECONDS if self.decode_seconds is None else self.decode_seconds
        return _PROMPT * prefill + _ITERATIONS * decode


@dataclass(frozen=True)
class VllmReplicaConfig(Config):
    """One vLLM server."""

    flag_prefix: ClassVar[str | None] = "replica"
    flag_separator: ClassVar[str] = ": "

    url: str = setting(help="its URL: http://host:port, with the path before /v1 if there is one")
    name: str | None = setting(None, help="its name in metrics and logs; by default host:port")
    group: str | None = setting(None, help="its hardware group; by default the first, or a default one")

    def check(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError as error:
            raise InputError(f"{self.flag('url')}: {self.url!r} has no valid host:port: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{self.flag('url')}: expected http://host:port, not {self.url!r}")
        if port == 0 or " " in self.url or not self.url.isprintable():
            raise InputError(f"{self.flag('url')}: {self.url!r} has port 0, or characters that URLs cannot have")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise InputError(f"{self.flag('url')}: {self.url!r} has a query, a fragment or a user: drop it")
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
    """A replica at run time. group: number of its hardware group; kv_tokens: as reported, or None."""

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
    """The replicas in the order of the router's arrays. Numbers change when one is removed: keep the ServedReplica."""

    groups: tuple[HardwareGroupConfig, ...]
    replicas: list[ServedReplica] = field(default_factory=list)

    def make(self, config: VllmReplicaConfig) -> ServedReplica:
        """Make a replica, to be added later. Raises InputError for a used name or URL, or an unknown group."""
        for replica in self.replicas:
            if replica.name == config.label:
                raise InputError(f"replica {config.label}: {replica.url} already has this name: give it another")
            if replica.url == config.url:
                raise InputError(f"replica {config.label}: {config.url} is already the replica {replica.name}")
        return ServedReplica(config, self._group(config))

    def number(self, name: str) -> int:
        """Return the number of the replica with this name. Raises InputError if there is none."""
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
        """Return a new array of hardware facts, float64[replicas, HARDWARE_COLUMNS]."""
        return hardware_facts(self.groups, self.replicas)


def hardware_facts(groups: Sequence[HardwareGroupConfig], replicas: Sequence[ServedReplica]) -> Floats:
    """Return float64[replicas, HARDWARE_COLUMNS], as vidur.engine.state does for simulated replicas."""
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
