"""The stat logger: each engine step's gauges to the router, at once; and, if asked for, the step to a log.

VIDUR_ROUTER_GAUGES=host:port is where the router takes them (its --push_port), VIDUR_REPLICA_NAME the replica's name
there (the host's name if it is not set). VIDUR_STEP_LOG is a file that a line is added to for each step: what
`python -m rl.vllm.calibrate` reads. Without these it does nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vllm.v1.metrics.loggers import StatLoggerBase

from rl.vllm.calibrate.steps import Step, format_step
from rl.vllm.decide.gauges import EngineGauges, Push, format_push
from rl.vllm.plugin.pusher import Pusher, parse_address

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

LOG = logging.getLogger("vllm.vidur")


class VidurStatLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is not here when types are checked
    """One engine's. It runs in the API server's process, in its event loop, and so never waits. After an error it says
    so once and is silent: serving goes on."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        self._engine = engine_index
        self._replica = os.environ.get("VIDUR_REPLICA_NAME") or socket.gethostname()
        self._preemptions = 0
        self._run = secrets.randbits(32)
        self._number = 0
        self._cache = vllm_config.cache_config
        self._pusher: Pusher | None = None
        self._log: TextIO | None = None
        address, path = os.environ.get("VIDUR_ROUTER_GAUGES"), os.environ.get("VIDUR_STEP_LOG")
        try:
            if address:
                self._pusher = Pusher(*parse_address(address))
                LOG.info("vidur: engine %d pushes its gauges to %s as %s", engine_index, address, self._replica)
            if path:
                # Each line is one write at the end of the file: engines may share it.
                self._log = Path(path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115
                LOG.info("vidur: engine %d logs its steps to %s", engine_index, path)
        except (OSError, ValueError) as error:
            self._stop(error)

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is None or (self._pusher is None and self._log is None):
            return
        try:
            self._record(scheduler_stats, iteration_stats)
        except Exception as error:  # noqa: BLE001  # an engine must not stop for its gauges
            self._stop(error)

    def log_engine_initialized(self) -> None:
        pass

    def _record(self, scheduler_stats: SchedulerStats, iteration_stats: IterationStats | None) -> None:
        now = time.time()
        waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
        # Versions of vLLM before its flag --enable-logging-iteration-details reached the API server have none, as 0.23.
        details = getattr(scheduler_stats, "iteration_details", None)
        prompts, prompt_tokens, decodes = _work(details, iteration_stats)
        if iteration_stats is not None:
            self._preemptions += iteration_stats.num_preempted_reqs
        if self._pusher is not None:
            usage = min(max(scheduler_stats.kv_cache_usage, 0.0), 1.0)
            gauges = EngineGauges(scheduler_stats.num_running_reqs, waiting, usage, self._preemptions)
            self._number += 1
            self._pusher.send(format_push(Push(self._replica, self._engine, gauges, self._run, self._number)))
        if self._log is not None and prompt_tokens + decodes > 0:
            between = iteration_stats.inter_token_latencies_iter if iteration_stats is not None else []
            step = Step(
                at=now,
                replica=self._replica,
                engine=self._engine,
                prompt_tokens=prompt_tokens,
                prompts=prompts,
                decodes=decodes,
                kv_tokens=round(scheduler_stats.kv_cache_usage * (self._cache.num_gpu_blocks or 0))
                * self._cache.block_size,
                running=scheduler_stats.num_running_reqs,
                waiting=waiting,
                # The engine's own clock; a request that it has left out of a step waited longer than one.
                seconds=min(between) if between else None,
                model_seconds=None if details is None else details.elapsed_ms * 1e-3,
            )
            self._log.write(format_step(step))

    def _stop(self, error: Exception) -> None:
        LOG.warning("vidur: engine %d pushes no more gauges and logs no more steps: %r", self._engine, error)
        if self._pusher is not None:
            self._pusher.close()
        self._pusher = self._log = None


def _work(details: Any, iteration_stats: IterationStats | None) -> tuple[int, int, int]:
    """What a step processed: requests with a part of their prompt, the tokens of these, requests in decode.

    details: of --enable-logging-iteration-details; without them the tokens of a prompt count in the step that ends it.
    """
    if details is not None:
        if details.is_dummy:
            return 0, 0, 0
        return details.num_ctx_requests, details.num_ctx_tokens, details.num_generation_requests
    if iteration_stats is None:
        return 0, 0, 0
    return (
        len(iteration_stats.time_to_first_tokens_iter),
        iteration_stats.prompt_token_stats.computed,
        len(iteration_stats.inter_token_latencies_iter),
    )
