"""Route requests among the engines of one `vllm serve --data-parallel-size N`.

vLLM has no hook for it, so `register` wraps two methods of its data-parallel client: the one that chooses an engine,
and the one that processes the outputs of engines. rl.vllm.decide.routing.Router chooses, with a ledger kept by both.
Anything unexpected switches it off with a warning, and vLLM chooses itself.

VIDUR_DATA_PARALLEL_SCHEDULER names the scheduler (`ppo` if it is not set, `none` switches it off);
VIDUR_DATA_PARALLEL_CONFIG is a YAML file of the router's other settings (`groups` describes the engines' hardware).
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest
    from vllm.v1.engine.core_client import DPLBAsyncMPClient

    from rl.vllm.decide.config import RouterConfig
    from rl.vllm.decide.routing import Arrival, Decision, Router

LOG = logging.getLogger("vllm.vidur")

TESTED_VERSIONS = ("0.32.0",)
# vLLM's coordinator reports every change within this time, so the gauges are never older.
GAUGES_SECONDS = 0.1
# Seconds between logs of the counts of decisions.
COUNTS_SECONDS = 10.0


def register() -> None:
    """Install the router: the entry point, which vLLM calls in every process, once or more."""
    if os.environ.get("VIDUR_DATA_PARALLEL_SCHEDULER") == "none":
        return
    import vllm

    version = vllm.__version__.partition("+")[0]
    if version not in TESTED_VERSIONS:
        LOG.warning(
            "vidur: tested on vLLM %s, not %s: vLLM chooses among data-parallel engines itself",
            ", ".join(TESTED_VERSIONS), version,
        )  # fmt: skip
        return
    try:
        from vllm.v1.engine.core_client import DPLBAsyncMPClient

        _wrap(DPLBAsyncMPClient)
    except (ImportError, AttributeError) as error:
        LOG.warning("vidur: vLLM chooses among data-parallel engines itself: %r", error)


def _wrap(client: type[DPLBAsyncMPClient]) -> None:
    choose = client.get_core_engine_for_request
    process = client.process_engine_outputs
    if choose.__module__ == __name__:
        return

    def get_core_engine_for_request(self: DPLBAsyncMPClient, request: EngineCoreRequest) -> bytes:
        return _routing_of(self).choose(self, request, choose)

    async def process_engine_outputs(self: DPLBAsyncMPClient, outputs: EngineCoreOutputs) -> None:
        await process(self, outputs)
        _routing_of(self).note_outputs(outputs)

    client.get_core_engine_for_request = get_core_engine_for_request
    client.process_engine_outputs = staticmethod(process_engine_outputs)


def _routing_of(client: DPLBAsyncMPClient) -> DataParallelRouting:
    routing = getattr(client, "_vidur_routing", None)
    if not isinstance(routing, DataParallelRouting):
        routing = DataParallelRouting(client)
        client._vidur_routing = routing
    return routing


class DataParallelRouting:
    """The router of one client, that is of one API server.

    With several API servers, each knows its own requests exactly, and those of the others by the gauges.
    """

    def __init__(self, client: DPLBAsyncMPClient) -> None:
        self._router: Router | None = None
        self._tickets: dict[str, int] = {}
        self._count = len(client.core_engines)
        self._decided = [0] * self._count
        self._fallbacks = 0
        self._explanation = "none"  # of the last fallback
        self._logged_at = time.monotonic()
        try:
            config = _read_config(client)
            from rl.vllm.decide.routing import Router

            self._router = Router(config, time.monotonic())
            LOG.info("vidur: %s chooses among %d data-parallel engines", self._router.scheduler_name, self._count)
        except Exception as error:  # noqa: BLE001  # vLLM must serve, whatever is wrong here
            self._stop(error)

    def choose(self, client: DPLBAsyncMPClient, request: EngineCoreRequest, own_choice: Any) -> bytes:
        """Choose the engine for a request. own_choice: vLLM's method, which also counts the request."""
        # A request that comes in parts stays on its engine, and so does one that the client has pinned.
        pinned = request.request_id in client.reqs_in_flight or request.data_parallel_rank is not None
        chosen = None if pinned or request.pooling_params is not None else self._decide(client, request)
        if chosen is not None:
            request.data_parallel_rank = chosen.replica
        try:
            engine: bytes = own_choice(client, request)
        finally:
            if chosen is not None:
                request.data_parallel_rank = None
        self._placed(client, request, engine, chosen)
        return engine

    def note_outputs(self, outputs: EngineCoreOutputs) -> None:
        """Count the outputs of an engine."""
        if self._router is None or not self._tickets:
            return
        now = time.monotonic()
        try:
            for output in outputs.outputs:
                ticket = self._tickets.get(output.request_id)
                if ticket is not None:
                    if output.new_token_ids:
                        self._router.stream(ticket, len(output.new_token_ids), now)
                    if output.finish_reason is not None and str(output.finish_reason) in ("stop", "length"):
                        self._router.finish(self._tickets.pop(output.request_id), now)
            for request_id in outputs.finished_requests or ():
                ticket = self._tickets.pop(request_id, None)
                if ticket is not None:
                    self._router.drop(ticket, now, "cancelled")
        except Exception as error:  # noqa: BLE001  # vLLM must serve, whatever is wrong here
            self._stop(error)

    def _decide(self, client: DPLBAsyncMPClient, request: EngineCoreRequest) -> Decision | None:
        if self._router is None:
            return None
        now = time.monotonic()
        try:
            if len(client.core_engines) != self._count:
                raise RuntimeError(f"the number of engines has changed to {len(client.core_engines)}")
            self._read_gauges(client, now)
            decision = self._router.decide(_arrival(request, now), np.ones(self._count, np.bool_), now)
        except Exception as error:  # noqa: BLE001  # vLLM must serve, whatever is wrong here
            self._stop(error)
            return None
        self._decided[decision.replica] += 1
        if decision.explanation is not None:
            self._fallbacks += 1
            self._explanation = decision.explanation
        if now - self._logged_at >= COUNTS_SECONDS:
            self._logged_at = now
            LOG.info("vidur: requests by engine: %s; %d by the fallback, the last because: %s",
                     self._decided, self._fallbacks, self._explanation)  # fmt: skip
        return decision

    def _placed(
        self, client: DPLBAsyncMPClient, request: EngineCoreRequest, engine: bytes, chosen: Decision | None
    ) -> None:
        """Enter a request into the ledger, whoever chose its engine."""
        if self._router is None or request.request_id in self._tickets:
            return
        from rl.vllm.decide.routing import Decision

        now = time.monotonic()
        try:
            if chosen is None:
                chosen = Decision(client.core_engines.index(engine), "vllm")
            self._tickets[request.request_id] = self._router.place(chosen, _arrival(request, now), now)
        except Exception as error:  # noqa: BLE001  # vLLM must serve, whatever is wrong here
            self._stop(error)

    def _read_gauges(self, client: DPLBAsyncMPClient, now: float) -> None:
        from rl.vllm.decide.gauges import EngineGauges, Scrape

        assert self._router is not None
        for number, (waiting, running, usage) in enumerate(client.lb_engines):
            gauges = EngineGauges(float(running), float(waiting), min(max(float(usage), 0.0), 1.0), 0.0)
            self._router.gauges.update(number, Scrape({number: gauges}, None), now - GAUGES_SECONDS)

    def _stop(self, error: Exception) -> None:
        LOG.warning("vidur: vLLM chooses among data-parallel engines itself from now on: %r", error)
        self._router = None
        self._tickets.clear()


def _arrival(request: EngineCoreRequest, now: float) -> Arrival:
    from rl.vllm.decide.routing import Arrival

    prompt = request.prompt_token_ids if request.prompt_token_ids is not None else request.prompt_embeds
    # It arrives now, with its tokens: vLLM's processing before is no wait for a decision.
    return Arrival(len(prompt), now, -1, request.priority)


def _read_config(client: DPLBAsyncMPClient) -> RouterConfig:
    """Read the router's configuration from the environment, with the engines as replicas. Raises InputError."""
    from dataclasses import replace

    from rl.vllm.decide.config import parse_router
    from rl.vllm.decide.fleet import HardwareGroupConfig, VllmReplicaConfig

    flags = ["--scheduler", os.environ.get("VIDUR_DATA_PARALLEL_SCHEDULER") or "ppo"]
    if file := os.environ.get("VIDUR_DATA_PARALLEL_CONFIG"):
        flags += ["--config", file]
    config, _ = parse_router("VIDUR_DATA_PARALLEL_CONFIG", __doc__ or "", argv=flags)
    engines = tuple(
        VllmReplicaConfig(f"http://engine:{number + 1}", f"engine {number}")
        for number in range(len(client.core_engines))
    )
    cache, scheduler = client.vllm_config.cache_config, client.vllm_config.scheduler_config
    groups = config.groups or (HardwareGroupConfig("engines"),)
    first = groups[0]
    first = replace(
        first,
        kv_tokens=first.kv_tokens or (cache.num_gpu_blocks or 0) * cache.block_size or None,
        max_batch_size=first.max_batch_size or scheduler.max_num_seqs,
    )
    return replace(config, replicas=engines, groups=(first,))
