"""Configurations of request generators: synthetic requests, or the replay of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vidur.config.base import PolyConfig, setting
from vidur.config.request_interval_generator import (
    BaseRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    StaticRequestIntervalGeneratorConfig,
    TraceRequestIntervalGeneratorConfig,
)
from vidur.config.request_length_generator import BaseRequestLengthGeneratorConfig, FixedRequestLengthGeneratorConfig
from vidur.errors import InputError

TRACE_FORMATS = ("auto", "vidur", "azure", "burstgpt", "mooncake")


@dataclass(frozen=True)
class BaseRequestGeneratorConfig(PolyConfig):
    type_flag: ClassVar[str] = "request_generator_config_type"

    seed: int = setting(42, help="seed of the request generator", minimum=0)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a request, prompt and output together, for memory planning."""
        raise NotImplementedError

    @property
    def max_tokens_flag(self) -> str:
        """The flag that sets `max_tokens`."""
        return self.flag("max_tokens")


@dataclass(frozen=True)
class ArrivingRequestGeneratorConfig(BaseRequestGeneratorConfig):
    """What arrives by an interval generator: requests or, in the generators of sessions, sessions."""

    interval_generator_config: BaseRequestIntervalGeneratorConfig = field(
        default_factory=PoissonRequestIntervalGeneratorConfig, metadata={"help": "when requests or sessions arrive"}
    )
    num_requests: int | None = setting(128, help="number of requests; ignored if a duration is given", minimum=1)
    duration: float | None = setting(None, help="seconds in which requests arrive; overrides num_requests", above=0)

    def check(self) -> None:
        intervals = self.interval_generator_config
        if self.duration is not None and isinstance(intervals, StaticRequestIntervalGeneratorConfig):
            raise InputError(
                f"{self.flag('duration')} never ends if --interval_generator_config_type is static: "
                f"give {self.flag('num_requests')} instead"
            )
        if (
            self.duration is None
            and self.num_requests is None
            and not isinstance(intervals, TraceRequestIntervalGeneratorConfig)
        ):
            raise InputError(
                f"{self.flag('num_requests')} or {self.flag('duration')} is needed: only "
                "--interval_generator_config_type trace ends by itself"
            )


@dataclass(frozen=True)
class SyntheticRequestGeneratorConfig(ArrivingRequestGeneratorConfig):
    type_name: ClassVar[str] = "synthetic"
    description: ClassVar[str] = "lengths from a length generator, arrivals from an interval generator"

    length_generator_config: BaseRequestLengthGeneratorConfig = field(
        default_factory=FixedRequestLengthGeneratorConfig, metadata={"help": "how long requests are"}
    )

    @property
    def max_tokens(self) -> int:
        return self.length_generator_config.max_tokens

    @property
    def max_tokens_flag(self) -> str:
        return self.length_generator_config.flag("max_tokens")


@dataclass(frozen=True)
class TraceRequestGeneratorConfig(BaseRequestGeneratorConfig):
    type_name: ClassVar[str] = "trace_replay"
    type_aliases: ClassVar[tuple[str, ...]] = ("trace",)
    description: ClassVar[str] = "arrivals and lengths of a trace file"

    trace_file: str = setting(
        "data/processed_traces/splitwise_conv.csv", help="the trace: CSV or JSONL, or the name of one in data/traces"
    )
    prefill_scale_factor: float = setting(1.0, help="multiplies the prompt lengths", minimum=0)
    decode_scale_factor: float = setting(1.0, help="multiplies the output lengths", minimum=0)
    time_scale_factor: float = setting(1.0, help="multiplies the arrival times: 0.5 doubles the load", minimum=0)
    max_tokens: int = setting(4096, help="most tokens of a request; longer prompts are cut", minimum=1)
    trace_format: str = setting("auto", help="format of the file; auto detects it", choices=TRACE_FORMATS)
    num_requests: int | None = setting(None, help="replay this many requests from the start; all if none", minimum=1)
    hash_block_size: int = setting(512, help="tokens of a block of hash_ids", minimum=1, maximum=1 << 20)


@dataclass(frozen=True)
class PrefixGroupsRequestGeneratorConfig(ArrivingRequestGeneratorConfig):
    """Groups of users; all prompts of a group begin alike. The default is the benchmark of llm-d's router."""

    type_name: ClassVar[str] = "prefix_groups"
    type_aliases: ClassVar[tuple[str, ...]] = ("prefix_repetition", "shared_prefix")
    description: ClassVar[str] = "groups of users whose prompts begin with the group's system prompt"

    num_groups: int = setting(150, help="groups, each with a system prompt of its own", minimum=1)
    users_per_group: int = setting(5, help="users of a group, one session each", minimum=1)
    system_tokens: int = setting(6000, help="tokens of a system prompt", minimum=0)
    question_tokens: int = setting(1200, help="prompt tokens after the system prompt", minimum=1)
    output_tokens: int = setting(1000, help="output tokens", minimum=1)
    repeat_questions: bool = setting(False, help="a user always sends the same prompt")

    @property
    def max_tokens(self) -> int:
        return self.system_tokens + self.question_tokens + self.output_tokens

    @property
    def max_tokens_flag(self) -> str:
        return self.flag("system_tokens")


@dataclass(frozen=True)
class BaseSessionsRequestGeneratorConfig(ArrivingRequestGeneratorConfig):
    """Sessions of several turns; the interval generator says when sessions begin."""

    num_sessions: int | None = setting(
        None, help="number of sessions that begin; num_requests is then ignored", minimum=1
    )
    mode: str = setting(
        "closed_loop",
        help="closed_loop: a turn arrives its think time after the answer before it; open_loop: at its estimated time",
        choices=("closed_loop", "open_loop"),
    )
    mid_life: bool = setting(
        True, help="begin with the sessions under way that the rate implies, each at a random turn"
    )
    max_tokens: int = setting(131_072, help="most tokens of a request; a session ends before a longer one", minimum=2)

    def check(self) -> None:
        static = isinstance(self.interval_generator_config, StaticRequestIntervalGeneratorConfig)
        if self.num_sessions is None and static:
            raise InputError(f"{self.flag('num_sessions')} is needed if --interval_generator_config_type is static")
        if self.num_sessions is None:
            super().check()


@dataclass(frozen=True)
class SessionTraceRequestGeneratorConfig(BaseSessionsRequestGeneratorConfig):
    type_name: ClassVar[str] = "session_trace"
    description: ClassVar[str] = "sessions of a trace, as kv-cache-tester's of Claude Code"

    trace_file: str = setting("claude_code", help="the trace: JSON lines, or the name of one in data/traces")
    shared_system: bool = setting(False, help="sessions with equal lengths of tool and system prompts share them")


@dataclass(frozen=True)
class SessionsRequestGeneratorConfig(BaseSessionsRequestGeneratorConfig):
    """Chats or agents. Each quantity is lognormal with a mean and a coefficient of variation (cv), or constant if 0."""

    type_name: ClassVar[str] = "sessions"
    description: ClassVar[str] = "conversations of tenants with shared system prompts, or agents"

    num_tenants: int = setting(16, help="tenants, each with a system prompt of its own", minimum=1)
    tenant_skew: float = setting(1.0, help="Zipf exponent: the n-th tenant has a share of n**-skew", minimum=0)
    system_tokens: float = setting(2000.0, help="mean tokens of a system prompt", minimum=0)
    system_cv: float = setting(0.0, help="cv of the tokens of a system prompt", minimum=0)
    turns: float = setting(6.0, help="mean turns of a session", minimum=1)
    turns_cv: float = setting(0.5, help="cv of the turns of a session", minimum=0)
    question_tokens: float = setting(150.0, help="mean tokens that a turn adds to the prompt", minimum=1)
    question_cv: float = setting(1.0, help="cv of these tokens", minimum=0)
    answer_tokens: float = setting(250.0, help="mean output tokens of a turn", minimum=1)
    answer_cv: float = setting(1.0, help="cv of the output tokens", minimum=0)
    think_seconds: float = setting(20.0, help="mean seconds from an answer to the next turn", minimum=0)
    think_cv: float = setting(1.0, help="cv of these seconds", minimum=0)
    document_probability: float = setting(0.12, help="share of turns that bring a document", minimum=0, maximum=1)
    document_tokens: float = setting(2500.0, help="mean tokens of a document", minimum=1)
    document_cv: float = setting(0.0, help="cv of the tokens of a document", minimum=0)
    agent_probability: float = setting(
        0.0, help="share of turns whose answer starts a burst of sub-agents, for which the next turn waits",
        minimum=0, maximum=1,
    )  # fmt: skip
    agents: int = setting(4, help="sub-agents of a burst; each begins with the tenant's system prompt", minimum=1)
    agent_turns: int = setting(3, help="requests of a sub-agent, one after the other", minimum=1)
    agent_think_seconds: float = setting(1.0, help="mean seconds from one to the next", minimum=0)
    token_seconds: float = setting(
        0.02, help="seconds per output token, by which the arrivals of later turns are estimated", minimum=0
    )
    max_tokens: int = setting(32_768, help="most tokens of a request; a session ends before a longer one", minimum=2)


@dataclass(frozen=True)
class ServegenRequestGeneratorConfig(BaseRequestGeneratorConfig):
    type_name: ClassVar[str] = "servegen"
    description: ClassVar[str] = (
        "the clients of a ServeGen file, each with its rate, burstiness and lengths; no content"
    )

    trace_file: str = setting("servegen_m_small", help="the clients: JSON, or the name of a file in data/traces")
    qps: float | None = setting(None, help="mean requests per second, for which all rates are scaled", above=0)
    start: float = setting(0.0, help="begin so many seconds into the file", minimum=0)
    duration: float = setting(600.0, help="seconds in which requests arrive", above=0)
    num_requests: int | None = setting(None, help="keep this many requests from the start; all if none", minimum=1)
    max_tokens: int = setting(32_768, help="most tokens of a request; longer prompts are cut", minimum=2)
