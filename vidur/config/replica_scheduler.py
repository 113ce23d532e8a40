"""Configurations of batching policies (upstream: replica schedulers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vidur.config.base import PolyConfig, setting
from vidur.errors import InputError


@dataclass(frozen=True)
class BaseReplicaSchedulerConfig(PolyConfig):
    type_flag: ClassVar[str] = "replica_scheduler_config_type"
    splits_batch_over_stages: ClassVar[bool] = False  # each pipeline stage gets batch_size_cap / stages requests

    batch_size_cap: int = setting(128, help="most requests of a batch", minimum=1)
    block_size: int = setting(16, help="tokens of a KV-cache block", minimum=1)
    watermark_blocks_fraction: float = setting(
        0.01, help="fraction of the blocks kept free when a request is admitted", minimum=0, below=1
    )
    num_blocks: int | None = setting(
        None, help="KV-cache blocks of a replica; planned from the device's memory if none", minimum=1
    )

    def check_pipeline(self, num_pipeline_stages: int) -> None:
        """Raise InputError if the batcher cannot run on that many pipeline stages."""
        if self.splits_batch_over_stages and self.batch_size_cap < num_pipeline_stages:
            raise InputError(
                f"{self.flag('batch_size_cap')} {self.batch_size_cap} leaves no request for some of the "
                f"{num_pipeline_stages} pipeline stages: raise it to at least {num_pipeline_stages}"
            )


@dataclass(frozen=True)
class VllmSchedulerConfig(BaseReplicaSchedulerConfig):
    type_name: ClassVar[str] = "vllm"
    description: ClassVar[str] = "vLLM of 2023: a batch is either whole prompts, which go first, or decodes"
    splits_batch_over_stages: ClassVar[bool] = True

    max_tokens_in_batch: int = setting(4096, help="most tokens of a batch of prompts", minimum=1)


@dataclass(frozen=True)
class LightllmSchedulerConfig(BaseReplicaSchedulerConfig):
    type_name: ClassVar[str] = "lightllm"
    description: ClassVar[str] = "LightLLM: admits by the future peak of the KV-cache; needs block size 1"
    splits_batch_over_stages: ClassVar[bool] = True

    max_tokens_in_batch: int = setting(4096, help="most tokens of a batch of prompts", minimum=1)
    max_waiting_iters: int = setting(10, help="decode iterations between attempts to admit prompts", minimum=0)

    def check(self) -> None:
        if self.block_size != 1:
            raise InputError(f"{self.flag('block_size')} must be 1, not {self.block_size}: LightLLM counts tokens")

    def check_pipeline(self, num_pipeline_stages: int) -> None:
        if num_pipeline_stages != 1:
            raise InputError(
                "--replica_scheduler_config_type lightllm needs --replica_config_num_pipeline_stages 1, "
                f"not {num_pipeline_stages}"
            )


@dataclass(frozen=True)
class OrcaSchedulerConfig(BaseReplicaSchedulerConfig):
    type_name: ClassVar[str] = "orca"
    description: ClassVar[str] = "Orca: iteration-level batching, reserves memory for the longest possible request"


@dataclass(frozen=True)
class FasterTransformerSchedulerConfig(BaseReplicaSchedulerConfig):
    type_name: ClassVar[str] = "faster_transformer"
    description: ClassVar[str] = "FasterTransformer: a batch runs until its last request ends"


@dataclass(frozen=True)
class SarathiSchedulerConfig(BaseReplicaSchedulerConfig):
    type_name: ClassVar[str] = "sarathi"
    description: ClassVar[str] = "Sarathi: chunked prompts and decodes in one batch, within a token budget"
    splits_batch_over_stages: ClassVar[bool] = True

    chunk_size: int = setting(512, help="token budget of a batch", minimum=1)


@dataclass(frozen=True)
class VllmV1SchedulerConfig(BaseReplicaSchedulerConfig):
    type_name: ClassVar[str] = "vllm_v1"
    description: ClassVar[str] = "today's vLLM: one token budget, running requests first; batch_size_cap is unused"

    max_num_batched_tokens: int = setting(8192, help="token budget of an iteration", minimum=1)
    max_num_seqs: int = setting(256, help="most running requests", minimum=1)
    long_prefill_token_threshold: int = setting(
        0, help="most prompt tokens of one request in an iteration; 0 is no limit", minimum=0
    )
    enable_prefix_caching: bool = setting(
        True, help="reuse cached blocks of equal prefixes, as vLLM does; only for workloads whose content is known"
    )

    def check(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"{self.flag('max_num_batched_tokens')} {self.max_num_batched_tokens} is below "
                f"{self.flag('max_num_seqs')} {self.max_num_seqs}: every running request needs a token"
            )
