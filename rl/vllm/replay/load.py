"""python -m rl.vllm.load: send a workload to an OpenAI-compatible server, and note how each request was served."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    """Arrivals are Poisson; lengths are even between their bounds; prompts are token ids, so that their lengths are
    exact, drawn so that no two begin alike."""

    flag_prefix: ClassVar[str | None] = ""
    help_title: ClassVar[str] = "load"
    help_description: ClassVar[str] = "what is sent, and where to"

    url: str = setting("http://127.0.0.1:8100", help="the server: http://host:port")
    model: str = setting("tiny", help="the model's name there")
    num_requests: int = setting(300, help="requests to send", minimum=1)
    qps: float = setting(10.0, help="requests a second", above=0)
    prompt_tokens: tuple[int, ...] = setting((32, 512), help="shortest and longest prompt", minimum=1)
    output_tokens: tuple[int, ...] = setting((16, 96), help="shortest and longest output", minimum=1)
    vocabulary: int = setting(500, help="token ids are below it", minimum=2)
    warm_up: int = setting(16, help="requests before, one after the other, that are not noted", minimum=0)
    timeout: float = setting(300.0, help="seconds that a request may take", above=0)
    seed: int = setting(0, help="of arrivals, lengths and prompts", minimum=0)
    output: str = setting("measured.jsonl", help="file to write: a JSON line per request")

    def check(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise InputError(f"{self.flag(name)}: expected the shortest and the longest, not {bounds}")
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise InputError(f"{self.flag('url')}: expected http://host:port, not {self.url!r}")


class Planned(NamedTuple):
    """A request to send `at` seconds from the start."""

    at: float
    prompt: list[int]
    output_tokens: int


def plan(config: LoadConfig) -> list[Planned]:
    """The requests of a workload: the same configuration, the same requests."""
    rng = np.random.default_rng(config.seed)
    count = config.num_requests
    at = np.cumsum(rng.exponential(1.0 / config.qps, count))
    prompts = rng.integers(config.prompt_tokens[0], config.prompt_tokens[1], count, endpoint=True)
    outputs = rng.integers(config.output_tokens[0], config.output_tokens[1], count, endpoint=True)
    return [
        Planned(float(at[i]), rng.integers(3, config.vocabulary, prompts[i]).tolist(), int(outputs[i]))
        for i in range(count)
    ]


class RequestFailed(Exception):
    """The server has not served a request. The text says how."""


async def send(config: LoadConfig, planned: Planned, started: float) -> Measured:
    """Send one request now, and read its stream to the end. Raises RequestFailed."""
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
    """Send the workload. Returns what was served, and how the others failed."""
    requests = plan(config)
    for request in requests[: config.warm_up]:
        await asyncio.wait_for(send(config, request, 0.0), config.timeout)
    started = time.monotonic()

    async def one(planned: Planned) -> Measured:
        await asyncio.sleep(max(started + planned.at - time.monotonic(), 0.0))
        return await asyncio.wait_for(send(config, planned, started), config.timeout)

    ends = await asyncio.gather(*map(one, requests), return_exceptions=True)
    served = [end for end in ends if isinstance(end, Measured)]
    failed = []
    for end in ends:
        if isinstance(end, (RequestFailed, OSError, asyncio.TimeoutError)):
            failed.append(str(end) or "took too long")
        elif isinstance(end, BaseException):
            raise end
    first = min((request.sent_at for request in served), default=0.0)
    shifted = [
        Measured(each.sent_at - first, each.prompt_tokens, each.output_tokens, each.ttft, each.e2e) for each in served
    ]
    return shifted, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Send the load that the flags describe. Returns 1 where requests failed, else as `run_tool`."""
    return run_tool("rl.vllm.load", (LoadConfig,), load, argv, description=__doc__ or "")


def load(config: LoadConfig) -> int:
    """Send the workload, write what was served, and say what failed. Returns 1 where something did."""
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
