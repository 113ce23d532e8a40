"""Configurations of length generators: the tokens of synthetic requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import PolyConfig, setting
from vidur.errors import InputError


@dataclass(frozen=True)
class BaseRequestLengthGeneratorConfig(PolyConfig):
    type_flag: ClassVar[str] = "length_generator_config_type"

    seed: int = setting(42, help="seed of the lengths", minimum=0)
    max_tokens: int = setting(4096, help="most tokens of a request, prompt and output together", minimum=1)


@dataclass(frozen=True)
class TraceRequestLengthGeneratorConfig(BaseRequestLengthGeneratorConfig):
    type_name: ClassVar[str] = "trace"
    description: ClassVar[str] = "lengths drawn without replacement from a trace file"

    trace_file: str = setting(
        "data/processed_traces/sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
        help="CSV with num_prefill_tokens and num_decode_tokens",
    )
    prefill_scale_factor: float = setting(1.0, help="multiplies the prompt lengths", minimum=0)
    decode_scale_factor: float = setting(1.0, help="multiplies the output lengths", minimum=0)


@dataclass(frozen=True)
class ZipfRequestLengthGeneratorConfig(BaseRequestLengthGeneratorConfig):
    type_name: ClassVar[str] = "zipf"
    description: ClassVar[str] = "total lengths from a Zipf distribution"

    theta: float = setting(0.6, help="skew of the distribution, at least 0; 1 is undefined", minimum=0)
    scramble: bool = setting(False, help="scatter the frequent lengths over the range")
    min_tokens: int = setting(1024, help="fewest tokens of a request", minimum=1)
    prefill_to_decode_ratio: float = setting(20.0, help="prompt tokens per output token", above=0)

    def check(self) -> None:
        _check_token_range(self, self.min_tokens)
        if self.theta == 1:
            raise InputError(f"{self.flag('theta')} must not be 1: the distribution is undefined there")


@dataclass(frozen=True)
class UniformRequestLengthGeneratorConfig(BaseRequestLengthGeneratorConfig):
    type_name: ClassVar[str] = "uniform"
    description: ClassVar[str] = "uniformly distributed total lengths"

    min_tokens: int = setting(1024, help="fewest tokens of a request", minimum=1)
    prefill_to_decode_ratio: float = setting(20.0, help="prompt tokens per output token", above=0)

    def check(self) -> None:
        _check_token_range(self, self.min_tokens)


@dataclass(frozen=True)
class FixedRequestLengthGeneratorConfig(BaseRequestLengthGeneratorConfig):
    type_name: ClassVar[str] = "fixed"
    description: ClassVar[str] = "every request of the same length"

    prefill_tokens: int = setting(2048, help="prompt tokens of every request", minimum=1)
    decode_tokens: int = setting(512, help="output tokens of every request", minimum=1)


@dataclass(frozen=True)
class QuantileRequestLengthGeneratorConfig(BaseRequestLengthGeneratorConfig):
    type_name: ClassVar[str] = "quantile"
    description: ClassVar[str] = "prompt and output lengths from a table of quantiles and their rank correlation"

    distribution: str = setting(
        "azure_conv_2023", help="a name in data/workloads, or the path of a JSON file of the same format"
    )


@dataclass(frozen=True)
class MixtureRequestLengthGeneratorConfig(BaseRequestLengthGeneratorConfig):
    type_name: ClassVar[str] = "mixture"
    description: ClassVar[str] = "each request from one of several tables of quantiles, drawn by weight"

    distributions: tuple[str, ...] = setting(
        ("azure_conv_2023", "azure_code_2023"), help="names in data/workloads, or paths of JSON files of that format"
    )
    weights: tuple[float, ...] = setting((), help="a weight for each distribution; equal if none", above=0)

    def check(self) -> None:
        if not self.distributions:
            raise InputError(f"{self.flag('distributions')} names nothing to draw from")
        if self.weights and len(self.weights) != len(self.distributions):
            raise InputError(
                f"{self.flag('weights')} has {len(self.weights)} values for {len(self.distributions)} distributions"
            )


def _check_token_range(config: BaseRequestLengthGeneratorConfig, min_tokens: int) -> None:
    if min_tokens > config.max_tokens:
        raise InputError(
            f"{config.flag('min_tokens')} {min_tokens} is above {config.flag('max_tokens')} {config.max_tokens}"
        )
