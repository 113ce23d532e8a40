"""Replay operations on vLLM's own scheduler and KV-cache manager, in vLLM's environment: no model runs.

    vllm_scheduler.py MODEL CASES TRACES

reads cases (tests/scheduling.py, as JSON) and writes one array per case, in the layout of `scheduling.replay`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

ARRIVE, STEP, ABORT = range(3)
PRIVATE = 1 << 40
SECTION = -9


class Replay:
    """One case."""

    def __init__(self, model: ModelConfig, case: dict[str, Any]) -> None:
        size, blocks = case["block_size"], case["num_blocks"] + 1  # vLLM keeps a null block.
        scheduling = SchedulerConfig(
            max_num_seqs=case["max_batch"], max_num_batched_tokens=case["token_limit"],
            max_model_len=model.max_model_len, enable_chunked_prefill=True, is_encoder_decoder=False,
            async_scheduling=False, long_prefill_token_threshold=case["prefill_threshold"],
        )  # fmt: skip
        cache = CacheConfig(block_size=size, enable_prefix_caching=case["caching"])
        cache.num_gpu_blocks = blocks
        config = VllmConfig(
            model_config=model, cache_config=cache, scheduler_config=scheduling, device_config=DeviceConfig("cpu")
        )
        spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=1, dtype=torch.float32)
        groups = KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)])
        self.scheduler = Scheduler(config, groups, StructuredOutputManager(config), size, log_stats=True)
        self.pool = self.scheduler.kv_cache_manager.block_pool
        hash_function = get_hash_fn_by_name(cache.prefix_caching_hash_algo)
        init_none_hash(hash_function)
        self.hasher = get_request_block_hasher(size, hash_function)
        self.size, self.case = size, case
        self.requests: dict[int, Request] = {}
        self.keys: dict[bytes, int] = {}
        self.trace: list[int] = []

    def run(self) -> list[int]:
        for kind, number in self.case["operations"]:
            if kind == ARRIVE:
                self.arrive(number)
                continue
            if kind == STEP:
                self.step()
            elif number in self.requests and not self.requests[number].is_finished():
                self.scheduler.finish_requests(str(number), RequestStatus.FINISHED_ABORTED)
            self.write_state()
        return self.trace

    def arrive(self, number: int) -> None:
        prompt, output = self.case["prompts"][number], self.case["outputs"][number]
        sampling = SamplingParams(max_tokens=output, ignore_eos=True)
        tokens = self.case["tokens"][number][:prompt]
        request = Request(str(number), tokens, sampling, None, block_hasher=self.hasher)
        self.requests[number] = request
        self.scheduler.add_request(request)

    def step(self) -> None:
        before = sum(request.num_preemptions for request in self.requests.values())
        output = self.scheduler.schedule()
        scheduled = list(output.num_scheduled_tokens.items())
        sampled = []
        for name, count in scheduled:
            request = self.requests[int(name)]
            self.trace += [int(name), request.num_computed_tokens - count, count]
            ended = request.num_computed_tokens == request.num_tokens
            sampled.append([self.case["tokens"][int(name)][request.num_tokens]] if ended else [])
        preempted = sum(request.num_preemptions for request in self.requests.values()) - before
        self.trace += [SECTION, preempted, SECTION]
        names = [name for name, _ in scheduled]
        result = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, sampled)
        self.scheduler.update_from_output(output, result)

    def write_state(self) -> None:
        """The waiting and the running requests in order, the keys of the free blocks in the order of eviction, and
        how many uses there are of blocks."""
        for number, request in self.requests.items():
            tokens = self.case["tokens"][number]
            for i, hashed in enumerate(request.block_hashes):
                last = tokens[(i + 1) * self.size - 1]
                self.keys[bytes(hashed)] = -2 if last >= PRIVATE else last // self.size
        self.trace += [*(int(request.request_id) for request in self.scheduler.waiting), SECTION]
        self.trace += [*(int(request.request_id) for request in self.scheduler.running), SECTION]
        for block in self.pool.free_block_queue.get_all_free_blocks():
            hashed = block.block_hash
            # The hash is followed by the four bytes of its cache group.
            self.trace.append(-1 if hashed is None else self.keys[bytes(hashed)[:-4]])
        used = sum(block.ref_cnt for block in self.pool.blocks if not block.is_null)
        self.trace += [SECTION, used, SECTION]


def main(model: str, cases: str, traces: str) -> None:
    config = ModelConfig(model=model, dtype="bfloat16", seed=1, max_model_len=2048)
    text = Path(cases).read_text(encoding="utf-8")
    replayed = [np.array(Replay(config, case).run(), np.int64) for case in json.loads(text)]
    np.savez_compressed(traces, *replayed)


if __name__ == "__main__":
    main(*sys.argv[1:])
