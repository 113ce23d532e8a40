"""python -m rl.vllm.load: send a workload to an OpenAI-compatible server, and record how each request is served."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from rl.vllm.replay.measured import Measured, write_measured
from vidur.config.base import Config, setting
from vidur.errors import InputError
from vidur.metrics.statistics import statistics
from vidur.metrics.text import in_seconds, plural
from vidur.tool import run_tool


@dataclass(frozen=True)
class LoadConfig(Config):
    """The workload and the server.

    Arrivals are Poisson, and lengths uniform. Prompts are random token ids, so that lengths are exact and no two
    prompts share a prefix.
    """

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "load"
    help_description: ClassVar[str] = "the workload and the server"

    url: str = setting("http://127.0.0.1:8100", help="the server: http://host:port")
    model: str = setting("tiny", help="name of the model on the server")
    num_requests: int = setting(300, help="requests to send", minimum=1)
    qps: float = setting(10.0, help="requests per second", above=0)
    prompt_tokens: tuple[int, ...] = setting((32, 512), help="shortest and longest prompt", minimum=1)
    output_tokens: tuple[int, ...] = setting((16, 96), help="shortest and longest output", minimum=1)
    vocabulary: int = setting(500, help="exclusive upper bound of token ids", minimum=2)
    warm_up: int = setting(16, help="requests sent one by one beforehand, and not recorded", minimum=0)
    timeout: float = setting(300.0, help="seconds that a request may take", above=0)
    seed: int = setting(0, help="seed of arrivals, lengths and prompts", minimum=0)
    output: str = setting("measured.jsonl", help="file for a JSON line per request")

    def check(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise InputError(f"{self.flag(name)}: expected the shortest and the longest length, not {bounds}")
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise InputError(f"{self.flag('url')}: expected http://host:port, not {self.url!r}")


class Planned(NamedTuple):
    """A request to send `delay` seconds after the start."""

    delay: float
    prompt: list[int]
    output_tokens: int


def plan(config: LoadConfig) -> list[Planned]:
    """Draw the requests of a workload; the same configuration gives the same requests."""
    rng = np.random.default_rng(config.seed)
    count = config.num_requests
    delays = np.cumsum(rng.exponential(1.0 / config.qps, count))
    prompts = rng.integers(config.prompt_tokens[0], config.prompt_tokens[1], count, endpoint=True)
    outputs = rng.integers(config.output_tokens[0], config.output_tokens[1], count, endpoint=True)
    return [
        Planned(float(delays[i]), rng.integers(3, config.vocabulary, prompts[i]).tolist(), int(outputs[i]))
        for i in range(count)
    ]


class RequestFailed(Exception):
    """A request that the server did not serve."""


async def send(config: LoadConfig, planned: Planned, started: float) -> Measured:
    """Send a request and read its stream to the end. Raises RequestFailed."""
    body = json.dumps(
        {
            "model": config.model,
            "prompt": planned.prompt,
            "max_tokens": planned.output_tokens,
            "stream": True,
            "ignore_eos": True,
        }
    ).encode()
    parts = urlsplit(config.url)
    head = (
        f"POST {parts.path}/v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    sent = time.monotonic()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        writer.write(head.encode() + body)
        status = (await reader.readline()).split(b" ", 2)
        if status[1:2] != [b"200"]:
            raise RequestFailed(f"answered {b' '.join(status[1:]).decode().strip() or 'nothing'}")
        first = last = None
        async for line in reader:
            if not line.startswith(b"data:"):
                continue
            last = time.monotonic()
            first = last if first is None else first
            if line.startswith(b"data: [DONE]"):
                return Measured(sent - started, len(planned.prompt), planned.output_tokens, first - sent, last - sent)
            if line.startswith((b'data: {"error', b'data: {"object":"error')):
                raise RequestFailed(line.decode().strip())
        raise RequestFailed("ended before the last token")
    finally:
        writer.close()


async def serve(config: LoadConfig) -> tuple[list[Measured], list[str]]:
    """Send the workload. Returns the served requests, and the errors of the others."""
    requests = plan(config)
    for request in requests[: config.warm_up]:
        await asyncio.wait_for(send(config, request, 0.0), config.timeout)
    started = time.monotonic()

    async def send_later(planned: Planned) -> Measured:
        await asyncio.sleep(max(started + planned.delay - time.monotonic(), 0.0))
        return await asyncio.wait_for(send(config, planned, started), config.timeout)

    ends = await asyncio.gather(*map(send_later, requests), return_exceptions=True)
    served = [end for end in ends if isinstance(end, Measured)]
    failed = []
    for end in ends:
        if isinstance(end, (RequestFailed, OSError, asyncio.TimeoutError)):
            failed.append(str(end) or "took too long")
        elif isinstance(end, BaseException):
            raise end
    first = min((request.sent_at for request in served), default=0.0)
    return [replace(request, sent_at=request.sent_at - first) for request in served], failed


def main(argv: Sequence[str] | None = None) -> int:
    """Send the load and return the exit status: 1 if requests failed."""
    return run_tool("rl.vllm.load", (LoadConfig,), load, argv, description=__doc__ or "")


def load(config: LoadConfig) -> int:
    """Send the workload, write the measurements, and print the failures. Returns 1 if there are any."""
    try:
        served, failed = asyncio.run(serve(config))
    except (RequestFailed, OSError, asyncio.TimeoutError) as error:
        raise InputError(f"{config.url} does not serve: {error}") from None
    write_measured(config.output, served)
    e2e = statistics(np.array([request.e2e for request in served]))
    print(f"{plural(len(served), 'request')} served, E2E mean {in_seconds(e2e['mean'])}, p90 {in_seconds(e2e['p90'])}: "
          f"{config.output}")  # fmt: skip
    for text in sorted(set(failed)):
        print(f"{failed.count(text)} failed: {text}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
