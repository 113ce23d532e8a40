"""Small clusters for tests of the engine: plans and requests made by hand, with made-up but complete tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import vidur.scheduler.batching
import vidur.scheduler.compiled  # noqa: F401
from vidur.config import BaseGlobalSchedulerConfig
from vidur.engine.cluster import DRAIN, FAIL, JOIN, RETURN, SLOW
from vidur.engine.engine import Engine
from vidur.engine.plan import EngineOptions, HardwarePlan, IndexPlan, ReplicaPlan
from vidur.engine.plug import BATCHERS
from vidur.engine.recording import Recording
from vidur.engine.simulation import Simulation
from vidur.execution_time_predictor import ExecutionTimeTables
from vidur.observation import HARDWARE_COLUMNS
from vidur.request_generator import RequestTable
from vidur.scheduler.routers import GLOBAL_SCHEDULERS, KernelScheduler, RouterContext

LINEAR_OPS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "mlp_act", "attn_rope",
              "attn_kv_cache_save", "input_layernorm", "post_attention_layernorm", "add")  # fmt: skip


def simple_tables(
    max_tokens: int = 2100, max_batch: int = 32, max_context: int = 1100, granularity: int = 64, scale: float = 1.0
) -> ExecutionTimeTables:
    """Times that grow with tokens, chunk, batch and KV length."""
    tokens = np.arange(max_tokens + 8 + 1, dtype=np.float64)
    kv = np.arange(2 * max_context // granularity + 2, dtype=np.float64) * granularity
    chunk = np.arange(max_tokens + 1, dtype=np.float64)
    batch = np.arange(max_batch + 1, dtype=np.float64)
    linear = dict.fromkeys(LINEAR_OPS, scale * (0.01 + 1e-4 * tokens))
    linear["send_recv"] = scale * (0.02 + 1e-5 * tokens)
    return ExecutionTimeTables(
        linear=linear,
        attn_prefill=scale * (0.005 + 1e-7 * chunk[None, :] * (chunk[None, :] + kv[:, None])),
        attn_decode=scale * (0.005 + 1e-6 * batch[:, None] * kv[None, :]),
        kv_granularity=granularity,
    )


HARDWARE = HardwarePlan(simple_tables(), layers_per_stage=2)


@dataclass(frozen=True)
class Cluster:
    """A cluster in few words. Times in seconds. With several routers requests come in at one after the other."""

    policy: str = "sarathi"
    replicas: int = 2
    stages: int = 1
    num_blocks: int = 64
    block_size: int = 16
    max_batch: int = 8
    token_limit: int = 128
    router: str = "round_robin"
    routers: int = 1
    queue_depth: int = 0
    events: tuple[tuple[float, int, int, float], ...] = ()
    gauge_interval: float = 0.0
    time_limit: float = np.inf
    record_rows: bool = True
    speeds: tuple[float, ...] = field(default=(1.0,))
    caching: bool = False
    index: IndexPlan | None = None
    hardware: HardwarePlan = HARDWARE

    def plans(self) -> list[ReplicaPlan]:
        batcher = BATCHERS.get(self.policy)
        reserved = self.policy in ("orca", "faster_transformer")
        per_request = max(1, self.num_blocks // 2)
        longest = per_request * self.block_size if reserved else self.num_blocks * self.block_size + 1
        plan = ReplicaPlan(
            hardware=0,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            max_batch=self.max_batch,
            max_admitted=self.max_batch * self.stages,
            token_limit=self.token_limit,
            max_request_tokens=self.num_blocks if self.policy == "lightllm" else longest,
            stages=self.stages,
            max_blocks_per_request=per_request,
            watermark=int(0.05 * self.num_blocks),
            max_waiting_iters=3,
            grows=batcher.grows,
            hold_until_batch_ends=batcher.hold_until_batch_ends,
            max_prompt_tokens=self.token_limit if self.policy == "lightllm" else 1 << 40,
            caching=self.caching,
        )
        return [plan] * self.replicas

    def simulation(self, requests: RequestTable) -> Simulation:
        plans = self.plans()
        hardware = np.ones((self.replicas, HARDWARE_COLUMNS))
        context = RouterContext(hardware=hardware, rng=np.random.default_rng(1))
        config = BaseGlobalSchedulerConfig.from_type(self.router)()
        router = GLOBAL_SCHEDULERS.get(self.router).from_config(config, context)
        assert isinstance(router, KernelScheduler)
        options = EngineOptions(
            time_limit=self.time_limit,
            gauge_interval=self.gauge_interval,
            record_rows=self.record_rows,
            member_rows=10,
            observed=router.observes,
            queue_depth=self.queue_depth,
            routers=np.arange(len(requests)) % self.routers,
            memory=np.tile(router.memory, (self.routers, 1)),
            draws=router.draw(len(requests)),
            index=self.index,
        )
        events = np.array(self.events, np.float64).reshape(-1, 4)
        engine = Engine(requests, plans, [self.hardware], events, options)
        return Simulation(engine, BATCHERS.get(self.policy))

    def run(self, requests: RequestTable) -> tuple[Simulation, Recording]:
        simulation = self.simulation(requests)
        simulation.run(GLOBAL_SCHEDULERS.get(self.router).choose)
        return simulation, simulation.engine.recording(partial=False)


def request_table(arrivals: list[float], prompts: list[int], outputs: list[int]) -> RequestTable:
    return RequestTable.of(
        np.array(arrivals, np.float64), np.array(prompts, np.int64), np.array(outputs, np.int64), "a test"
    )


__all__ = ["DRAIN", "FAIL", "HARDWARE", "JOIN", "RETURN", "SLOW", "Cluster", "request_table", "simple_tables"]
