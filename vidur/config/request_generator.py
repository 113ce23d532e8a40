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
class SyntheticRequestGeneratorConfig(BaseRequestGeneratorConfig):
    type_name: ClassVar[str] = "synthetic"
    description: ClassVar[str] = "lengths from a length generator, arrivals from an interval generator"

    length_generator_config: BaseRequestLengthGeneratorConfig = field(
        default_factory=FixedRequestLengthGeneratorConfig, metadata={"help": "how long requests are"}
    )
    interval_generator_config: BaseRequestIntervalGeneratorConfig = field(
        default_factory=PoissonRequestIntervalGeneratorConfig, metadata={"help": "when requests arrive"}
    )
    num_requests: int | None = setting(128, help="number of requests; ignored if a duration is given", minimum=1)
    duration: float | None = setting(None, help="seconds in which requests arrive; overrides num_requests", above=0)

    @property
    def max_tokens(self) -> int:
        return self.length_generator_config.max_tokens

    @property
    def max_tokens_flag(self) -> str:
        return self.length_generator_config.flag("max_tokens")

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
class TraceRequestGeneratorConfig(BaseRequestGeneratorConfig):
    type_name: ClassVar[str] = "trace_replay"
    type_aliases: ClassVar[tuple[str, ...]] = ("trace",)
    description: ClassVar[str] = "arrivals and lengths of a trace file"

    trace_file: str = setting("data/processed_traces/splitwise_conv.csv", help="the trace: CSV or JSONL")
    prefill_scale_factor: float = setting(1.0, help="multiplies the prompt lengths", minimum=0)
    decode_scale_factor: float = setting(1.0, help="multiplies the output lengths", minimum=0)
    time_scale_factor: float = setting(1.0, help="multiplies the arrival times: 0.5 doubles the load", minimum=0)
    max_tokens: int = setting(4096, help="most tokens of a request; longer prompts are cut", minimum=1)
    trace_format: str = setting("auto", help="format of the file; auto detects it", choices=TRACE_FORMATS)
    num_requests: int | None = setting(None, help="replay this many requests from the start; all if none", minimum=1)
    hash_block_size: int = setting(512, help="tokens of a block of hash_ids", minimum=1, maximum=1 << 20)
