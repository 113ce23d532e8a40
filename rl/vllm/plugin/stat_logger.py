"""Push the gauges of each engine step to the router, and log the steps.

VIDUR_ROUTER_GAUGES=host:port is the router's --push_port, VIDUR_REPLICA_NAME the replica's name there (by default the
host's name). VIDUR_STEP_LOG is a file for a line per step, for `python -m rl.vllm.calibrate`. Without these variables
the stat logger does nothing.
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
    """The stat logger of one engine.

    It runs in the API server's event loop, and so never waits. After an error it warns once and stops; serving goes on.
    """

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
                # Each line is one write to the end of the file, so engines may share it.
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
        # Older versions of vLLM, such as 0.23, do not report details to the API server.
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
                # By the engine's own clock: the minimum, as a request that skipped a step waited longer.
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
    """Return a step's prefilled requests, their tokens, and its decoding requests.

    Without details (--enable-logging-iteration-details), a prompt counts in the step that completes it.
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
