"""The cluster: replicas, identical or in groups, and the router in front of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from vidur.config.base import Config, setting
from vidur.config.global_scheduler import BaseGlobalSchedulerConfig, RoundRobinGlobalSchedulerConfig
from vidur.config.replica import ReplicaConfig
from vidur.config.replica_event import ReplicaEventConfig
from vidur.config.replica_group import ReplicaGroupConfig, ResolvedGroup
from vidur.config.replica_scheduler import BaseReplicaSchedulerConfig, SarathiSchedulerConfig
from vidur.errors import InputError

# Memory and the time of a routing decision grow with the number of replicas.
MOST_REPLICAS = 16_384


PREFIX_INDEXES = ("own", "corrected", "events", "oracle", "none")


@dataclass(frozen=True)
class ClusterConfig(Config):
    """The cluster. Replicas are numbered group by group; with groups, `num_replicas` is their sum."""

    help_title: ClassVar[str] = "cluster"
    help_description: ClassVar[str] = "the replicas, identical or in groups, the routers and timed events"

    num_replicas: int = setting(
        1,
        help="number of replicas; with groups, their sum",
        minimum=1,
        maximum=MOST_REPLICAS,
    )
    num_routers: int = setting(
        1,
        help="independent routers, blind to each other's placements; each request goes to one of them at random",
        minimum=1,
        maximum=1024,
    )
    replica_config: ReplicaConfig = field(default_factory=ReplicaConfig, metadata={"help": "the replicas"})
    global_scheduler_config: BaseGlobalSchedulerConfig = field(
        default_factory=RoundRobinGlobalSchedulerConfig, metadata={"help": "how requests are routed to replicas"}
    )
    replica_scheduler_config: BaseReplicaSchedulerConfig = field(
        default_factory=SarathiSchedulerConfig, metadata={"help": "how a replica forms its batches"}
    )
    replica_groups: tuple[ReplicaGroupConfig, ...] = setting(
        (), help="groups of replicas that differ: name=fast,num_replicas=2,device=h100 num_replicas=2,device=a100"
    )
    replica_events: tuple[ReplicaEventConfig, ...] = setting(
        (), help="timed events: time=30,replica=1,action=slow,factor=3 time=60,replica=1,action=fail"
    )
    gauge_refresh_interval: float = setting(
        1.0, help="seconds between updates of the gauges that routers see; 0: always current", minimum=0
    )

    prefix_index: str = setting(
        "own",
        help="how routers know prefix caches: own (what they placed), corrected (by the cached tokens that answers "
        "report), events (KV events of the replicas), oracle (the truth) or none",
        choices=PREFIX_INDEXES,
    )
    prefix_index_capacity: float = setting(
        1.0, help="believed capacity of a replica's cache relative to the real one, for own and corrected", above=0
    )
    prefix_index_event_delay: float = setting(
        0.05, help="seconds until a router learns of a KV event, for events", minimum=0
    )
    prefix_index_event_loss: float = setting(
        0.0, help="probability that a KV event is lost, for events", minimum=0, maximum=1
    )

    @cached_property
    def groups(self) -> tuple[ResolvedGroup, ...]:
        """The groups of replicas, at least one, with every value filled in."""
        if not self.replica_groups:
            return (ResolvedGroup("all", self.num_replicas, self.replica_config, self.replica_scheduler_config),)
        return tuple(
            group.resolve(group.name or f"group{number}", self.replica_config, self.replica_scheduler_config)
            for number, group in enumerate(self.replica_groups)
        )

    def check(self) -> None:
        if self.replica_groups:
            total = sum(group.num_replicas for group in self.replica_groups)
            if self.num_replicas not in (1, total):
                raise contradicting_replica_count(self.num_replicas, total)
            if total > MOST_REPLICAS:
                raise InputError(f"{self.flag('replica_groups')}: at most {MOST_REPLICAS:,} replicas, not {total:,}")
            object.__setattr__(self, "num_replicas", total)
        else:
            self.replica_scheduler_config.check_pipeline(self.replica_config.num_pipeline_stages)
        names = [group.name for group in self.groups]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{self.flag('replica_groups')}: the name '{name}' is given twice")
        for event in self.replica_events:
            if event.replica >= self.num_replicas:
                raise InputError(
                    f"{self.flag('replica_events')}: there is no replica {event.replica}: "
                    f"the {self.num_replicas} are numbered from 0"
                )


def only_one_router(cluster: ClusterConfig, what: str) -> None:
    """Raise InputError if there are several routers; `what` supports only one."""
    if cluster.num_routers > 1:
        flag = cluster.flag("num_routers")
        raise InputError(f"{flag} must be 1, not {cluster.num_routers}: {what} supports one router only")


def contradicting_replica_count(num_replicas: int, total: int) -> InputError:
    return InputError(
        f"{ClusterConfig.flag('num_replicas')} {num_replicas} contradicts {ClusterConfig.flag('replica_groups')}, "
        f"which sum to {total}: leave it out"
    )
