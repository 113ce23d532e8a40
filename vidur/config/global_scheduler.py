"""Configurations of routers (upstream: global schedulers)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from vidur.config.base import PolyConfig, setting
from vidur.errors import InputError

EXPECTED_OUTPUT_HELP = "output tokens expected of a request before any completion"
BELIEF_HELP = (
    "own: the index that this router keeps in production; shared: the cluster's, --cluster_config_prefix_index"
)
BELIEFS = ("own", "shared")


@dataclass(frozen=True)
class BaseGlobalSchedulerConfig(PolyConfig):
    """cache_aware: whether the router reads what is known of prefix caches."""

    type_flag: ClassVar[str] = "global_scheduler_config_type"
    cache_aware: ClassVar[bool] = False

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
class TimeCostGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "time_cost"
    description: ClassVar[str] = "the least seconds of prefill backlog, of its own prefill, and of delay to others"

    decode_weight: float = setting(
        0.3, help="seconds that a request in decode counts, per second of the arrival's prefill", minimum=0
    )
    request_weight: float = setting(
        0.5, help="iterations that an outstanding request counts, each as long as the weights are read", minimum=0
    )


@dataclass(frozen=True)
class BaseLlmDGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    """Settings of the approximate prefix index of llm-d."""

    cache_aware: ClassVar[bool] = True
    belief: str = setting("own", help=BELIEF_HELP, choices=BELIEFS)
    block_tokens: int = setting(64, help="tokens of a block of its own index", minimum=1)
    capacity_factor: float = setting(
        4.0,
        help="capacity of its own index relative to the cache: llm-d takes the count of 16-token blocks for its own",
        above=0,
    )


@dataclass(frozen=True)
class LlmDGlobalSchedulerConfig(BaseLlmDGlobalSchedulerConfig):
    type_name: ClassVar[str] = "llm_d"
    description: ClassVar[str] = "llm-d: a weighted sum of short queue, free KV cache and cached share of the prompt"

    queue_weight: float = setting(2.0, help="weight of the score of waiting requests", minimum=0)
    kv_weight: float = setting(2.0, help="weight of the score of KV-cache usage", minimum=0)
    prefix_weight: float = setting(3.0, help="weight of the score of cached blocks", minimum=0)


@dataclass(frozen=True)
class LlmDStickyGlobalSchedulerConfig(BaseLlmDGlobalSchedulerConfig):
    type_name: ClassVar[str] = "llm_d_sticky"
    description: ClassVar[str] = (
        "llm-d: where most of the prompt is cached until that is saturated, then the least load"
    )

    affinity_threshold: float = setting(
        0.8, help="cached share of a prompt from which on a replica is preferred", minimum=0, maximum=1
    )
    most_seconds: float = setting(
        18.0, help="prefill backlog of the preferred replicas beyond the others' that ends the preference", minimum=0
    )
    prefill_throughput: float = setting(15_928.0, help="tokens/s that turn prompt tokens in flight into time", above=0)
    scorer: str = setting(
        "token_load",
        help="load that decides: token_load (uncached prompt tokens) or active_request (outstanding requests)",
        choices=("token_load", "active_request"),
    )
    most_tokens: float = setting(4_194_304.0, help="prompt tokens in flight from which on loads are equal", above=0)


@dataclass(frozen=True)
class DynamoGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "dynamo"
    description: ClassVar[str] = "NVIDIA Dynamo: the fewest blocks to prefill, less those cached, and to hold"

    belief: str = setting(
        "shared", help=f"{BELIEF_HELP}; Dynamo follows KV events unless told otherwise", choices=BELIEFS
    )
    overlap_score_credit: float = setting(1.0, help="blocks saved by a cached block", minimum=0)
    overlap_score_credit_decay: float = setting(
        0.0, help="decay of this credit with the prefill backlog, in prompts of the arrival's length", minimum=0
    )
    prefill_load_scale: float = setting(1.0, help="weight of blocks to prefill against blocks held", minimum=0)
    active_request_weight: float = setting(0.0, help="tokens that an outstanding request counts", minimum=0)
    temperature: float = setting(0.0, help="of the softmax over costs scaled to 0..1; 0: the least cost", minimum=0)
    ttl: float = setting(120.0, help="seconds after which its own index forgets a block", above=0)


@dataclass(frozen=True)
class LmetricGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "lmetric"
    description: ClassVar[str] = "LMetric: the least product of new prompt tokens and batch size"

    belief: str = setting("shared", help=f"{BELIEF_HELP}; LMetric asks the replicas", choices=BELIEFS)
    counts_queued: bool = setting(
        True, help="whether new prompt tokens include those of requests without a first token (sglang's do not)"
    )


@dataclass(frozen=True)
class SglangCacheAwareGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "sglang_cache_aware"
    description: ClassVar[str] = "sglang's and vLLM's gateway: the longest match, or the fewest requests if unbalanced"

    belief: str = setting("own", help=BELIEF_HELP, choices=BELIEFS)
    defaults: str = setting(
        "cli",
        help="whose defaults: cli (of the commands) or library (of the structs and docs)",
        choices=("cli", "library"),
    )
    cache_threshold: float | None = setting(
        None, help="cached share of a prompt above which it follows its cache; 0.3 (cli) or 0.5", minimum=0, maximum=1
    )
    balance_abs_threshold: float | None = setting(
        None, help="difference of requests above which a cluster can be unbalanced; 64 (cli) or 32", minimum=0
    )
    balance_rel_threshold: float | None = setting(
        None, help="ratio of requests above which a cluster can be unbalanced; 1.5 (cli) or 1.1", minimum=0
    )
    max_tree_size: int | None = setting(
        None, help="characters of its own index per replica; 67,108,864 (cli) or 10,000", minimum=4
    )

    @property
    def constants(self) -> tuple[float, float, float, int]:
        """Cache threshold, absolute and relative balance thresholds, characters of the index."""
        defaults = (0.3, 64.0, 1.5, 2**26) if self.defaults == "cli" else (0.5, 32.0, 1.1, 10_000)
        return (
            defaults[0] if self.cache_threshold is None else self.cache_threshold,
            defaults[1] if self.balance_abs_threshold is None else self.balance_abs_threshold,
            defaults[2] if self.balance_rel_threshold is None else self.balance_rel_threshold,
            defaults[3] if self.max_tree_size is None else self.max_tree_size,
        )


@dataclass(frozen=True)
class SmgGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "smg"
    description: ClassVar[str] = "smg: the longest match, unless its replica has many more requests than the mean"

    belief: str = setting("own", help=BELIEF_HELP, choices=BELIEFS)
    cache_threshold: float = setting(
        0.3, help="cached share of a prompt above which it follows its own index", minimum=0, maximum=1
    )
    balance_abs_threshold: float = setting(64.0, help="requests above the mean that a match may have", minimum=0)
    balance_rel_threshold: float = setting(1.5, help="requests relative to the mean that a match may have", minimum=0)
    max_tree_size: int = setting(2**26, help="characters of its own index per replica", minimum=4)


@dataclass(frozen=True)
class AibrixGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "aibrix"
    description: ClassVar[str] = (
        "AIBrix prefix-cache: the longest match whose requests are within a deviation of the mean"
    )

    belief: str = setting("own", help=BELIEF_HELP, choices=BELIEFS)
    imbalance_gap: float = setting(
        8.0, help="difference of requests above which only the replicas with the fewest are matched", minimum=0
    )
    imbalance_factor: float = setting(
        0.0, help="the same needs more than this many times (the mean + 1); 2 in newer releases", minimum=0
    )
    deviations: float = setting(
        1.0, help="standard deviations of requests above the mean that a match may have", minimum=0
    )
    blocks: int = setting(200_000, help="blocks of its own index", minimum=1)
    block_bytes: int = setting(4, help="characters of a block of its own index", minimum=1)
    ttl: float = setting(1200.0, help="seconds after which its own index forgets a block", above=0)


@dataclass(frozen=True)
class PrefixAwareGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    cache_aware: ClassVar[bool] = True
    type_name: ClassVar[str] = "prefix_aware"
    description: ClassVar[str] = "vLLM production-stack: the longest match, whatever the load"

    belief: str = setting("own", help=BELIEF_HELP, choices=BELIEFS)
    chunk_characters: int = setting(128, help="characters of a block of its own index", minimum=4)


@dataclass(frozen=True)
class ConsistentHashGlobalSchedulerConfig(BaseGlobalSchedulerConfig):
    type_name: ClassVar[str] = "consistent_hash"
    description: ClassVar[str] = "vllm-router: all requests of a session on one replica, by a ring of hashes"

    virtual_nodes: int = setting(160, help="points of each replica on the ring", minimum=1, maximum=10_000)
    url: str = setting(
        "http://replica-{replica}:8000", help="address of each replica, which is hashed; {replica} is its number"
    )
    key: str = setting("header:x-session-id:", help="what is hashed before the session's number")

    def check(self) -> None:
        if "{replica}" not in self.url:
            raise InputError(f"{self.flag('url')} must contain {{replica}}, not {self.url}: addresses must differ")


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
