"""Measure vidur-router on loopback against stub replicas: latency, requests per second, memory, open streams.

python scripts/benchmark_vllm_router.py [--peer VLLM_ROUTER_EXECUTABLE] [--requests N] [--memory-requests N]

Routers and direct access take turns, so that other load on the machine affects all alike; figures are medians over the
rounds. Two stub replicas, the router and the load generator are separate processes. `ppo` runs without its guard on
unlikely observations, because stubs that answer at once are unlike its training.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
PROMPT = list(range(1000, 1064))
TOKENS = 16
CONCURRENT = 32
HELD = 2000
WAKING_SECONDS = 1.5  # for a stopped router to read its replicas' gauges again


class Load(asyncio.Protocol):
    """A connection that sends its next request when the previous answer has ended."""

    transport: asyncio.Transport

    def __init__(self, request: bytes, left: list[int], seconds: list[float], done: asyncio.Future[None]) -> None:
        """left: requests still to be sent, over all connections."""
        self._request, self._left, self._seconds, self.done = request, left, seconds, done
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        if self._left[0] <= 0:
            self.transport.close()
            self.done.set_result(None)
            return
        self._left[0] -= 1
        self._sent = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, match, body = self._buffer.partition(b"\r\n\r\n")
        if not match:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(ConnectionError(f"answered {(head + body).decode()!r}"))
            self.transport.abort()
            return
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if len(body) == int(length[1]) if length else body.endswith(b"\r\n0\r\n\r\n") or body == b"0\r\n\r\n":
            self._seconds.append(time.perf_counter() - self._sent)
            self._buffer = b""
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the connection was closed in the middle of an answer"))


async def generate(port: int, requests: int, concurrent: int, stream: bool, tokens: int) -> dict[str, float]:
    body = json.dumps({"model": "stub", "prompt": PROMPT, "max_tokens": tokens, "stream": stream}).encode()
    lines = (
        "POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer none", "User-Agent: benchmark",
        "Accept: */*", "Content-Type: application/json", f"Content-Length: {len(body)}",
    )  # fmt: skip
    message = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    loop = asyncio.get_running_loop()
    left, seconds = [requests], list[float]()
    started = time.perf_counter()
    loads = []
    for _ in range(concurrent):
        done = loop.create_future()
        await loop.create_connection(lambda done=done: Load(message, left, seconds, done), "127.0.0.1", port)
        loads.append(done)
    await asyncio.gather(*loads)
    elapsed = time.perf_counter() - started
    seconds.sort()
    p50, p99 = (1e3 * seconds[min(int(len(seconds) * q), len(seconds) - 1)] for q in (0.5, 0.99))
    return {"rate": len(seconds) / elapsed, "p50_ms": p50, "p99_ms": p99, "answers": len(seconds)}


def run_loop(task: Any) -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(task)
    return uvloop.run(task)


def load(port: int, requests: int, concurrent: int = 1, stream: bool = False, tokens: int = TOKENS) -> dict[str, float]:
    """Run a load generator in its own process and return its figures."""
    job = json.dumps([port, requests, concurrent, stream, tokens])
    done = subprocess.run([sys.executable, __file__, "--generate", job], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the load generator failed: {done.stderr.strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


class Child:
    """A process that is stopped at the end. port: as it prints it, or as given."""

    def __init__(self, stack: ExitStack, command: list[str], says: str = "", port: int = 0) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        # A file, because a full pipe would block the process.
        self._output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        stack.callback(self._stop)
        self.port = port or self._read_port(says)

    def _read_port(self, says: str) -> int:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if match := re.search(says, self._output.read_text()):
                return int(match[1])
            time.sleep(0.02)
        raise SystemExit(f"{self.process.args} did not start: {self._output.read_text()}")

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def megabytes(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start_stub(stack: ExitStack, *flags: str) -> Child:
    return Child(stack, [sys.executable, "scripts/stub_replica.py", *flags], r"(\d+)\n")


def start_router(stack: ExitStack, stubs: list[Child], scheduler: str, *flags: str) -> Child:
    urls = [word for stub in stubs for word in ("--replica", f"http://127.0.0.1:{stub.port}")]
    command = [sys.executable, "-m", "rl.vllm.router", *urls, "--scheduler", scheduler, "--port", "0"]
    router = Child(
        stack, [*command, "--access_log", os.devnull, "--feature_limit", "1e9", *flags], r"http://127\.0\.0\.1:(\d+)"
    )
    wait_until_ready(router.port, "/ready")
    return router


def start_peer(stack: ExitStack, executable: str, stubs: list[Child], policy: str) -> Child:
    urls = [f"http://127.0.0.1:{stub.port}" for stub in stubs]
    port, metrics = free_port(), free_port()
    command = [executable, "--host", "127.0.0.1", "--port", str(port), "--policy", policy, "--worker-urls", *urls]
    peer = Child(stack, [*command, "--prometheus-port", str(metrics), "--prometheus-host", "127.0.0.1"], port=port)
    wait_until_ready(port, "/v1/models")
    return peer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def fetch(port: int, path: str) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while not (head := data.partition(b"\r\n\r\n"))[1] or len(head[2]) < _length(head[0]):
            piece = client.recv(65536)
            if not piece:
                break
            data += piece
    return int(data.split(b" ")[1]), data.partition(b"\r\n\r\n")[2].decode()


def _length(head: bytes) -> int:
    match = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return int(match[1]) if match else 2**31


def wait_until_ready(port: int, path: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if fetch(port, path)[0] == 200:
                return
        except (OSError, IndexError):
            pass
        time.sleep(0.1)
    raise SystemExit(f"port {port} is not ready")


def fallback_share(router: Child) -> float:
    """Return the fraction of decisions that the fallback made."""
    text = fetch(router.port, "/metrics")[1]

    def total(name: str) -> float:
        match = re.findall(rf"^vidur_router_{name}_total(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, match))

    return total("fallbacks") / max(total("decisions"), 1.0)


@contextmanager
def only(way: Child, ways: dict[str, Child]) -> Iterator[None]:
    """Stop the other routers meanwhile, so that their background work does not disturb this one."""
    others = [other for name, other in ways.items() if other is not way and name != "direct"]
    for other in others:
        other.process.send_signal(signal.SIGSTOP)
    time.sleep(WAKING_SECONDS)
    yield
    for other in others:
        other.process.send_signal(signal.SIGCONT)


def compare(ways: dict[str, Child], requests: int, rounds: int, stream: bool) -> None:
    """Print each way's latency at one request at a time and its rate at 32, both against direct access."""
    alone: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    together: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with only(way, ways):
                alone[name].append(load(way.port, requests, 1, stream))
                together[name].append(load(way.port, 8 * requests, CONCURRENT, stream))
    kind = f"streams of {TOKENS} tokens" if stream else f"whole answers of {TOKENS} tokens"
    print(f"\n{kind}: {rounds} rounds of {requests} one at a time and {8 * requests} at {CONCURRENT}, medians\n")
    print("| way | p50, ms | p99, ms | added p50, ms | added p99, ms | requests/s | of direct |")
    print("|---|---|---|---|---|---|---|")

    def median(rows: list[dict[str, float]], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    def added(name: str, key: str) -> float:
        pairs = zip(alone[name], alone["direct"], strict=True)
        return statistics.median(row[key] - direct[key] for row, direct in pairs)

    for name in ways:
        p50, p99, rate = median(alone[name], "p50_ms"), median(alone[name], "p99_ms"), median(together[name], "rate")
        of_direct = statistics.median(
            row["rate"] / direct["rate"] for row, direct in zip(together[name], together["direct"], strict=True)
        )
        print(
            f"| {name} | {p50:.2f} | {p99:.2f} | {added(name, 'p50_ms'):.2f} | {added(name, 'p99_ms'):.2f} "
            f"| {rate:,.0f} | {100 * of_direct:.0f} % |",
            flush=True,
        )


def measure_memory(router: Child, requests: int) -> None:
    """Print the resident memory over many requests, half of them streams."""
    samples = [router.megabytes()]
    for part in range(10):
        load(router.port, requests // 10, CONCURRENT, stream=part % 2 == 1, tokens=4)
        samples.append(router.megabytes())
    print(f"\nmemory over {requests:,} requests, MiB at each tenth: {' '.join(f'{sample:.1f}' for sample in samples)}")
    print(f"from the second tenth to the last: {samples[-1] - samples[2]:+.1f} MiB", flush=True)


def measure_streams(stack: ExitStack, streams: int) -> None:
    """Open many slow streams at once, and print how many ran at once and how many ended well."""
    slow = [start_stub(stack, "--token-seconds", "1.0") for _ in range(2)]
    router = start_router(stack, slow, "ppo")
    before = router.megabytes()
    job = json.dumps([router.port, streams, streams, True, 20])
    generator = subprocess.Popen([sys.executable, __file__, "--generate", job], stdout=subprocess.PIPE, text=True)
    most, memory = 0, before
    while generator.poll() is None:
        time.sleep(0.5)
        most = max(most, sum(json.loads(fetch(stub.port, "/stub/state")[1])["active"] for stub in slow))
        memory = max(memory, router.megabytes())
    figures = json.loads(generator.communicate()[0])
    print(
        f"\nstreams: {most:,} of {streams:,} held at once, {figures['answers']:,.0f} ended well; "
        f"{memory - before:.0f} MiB for them ({1024 * (memory - before) / streams:.0f} KiB each)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500, help="sequential requests of each way and round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-requests", type=int, default=200_000, help="0: leave memory out")
    parser.add_argument("--streams", type=int, default=HELD, help="concurrent streams; 0: none")
    parser.add_argument(
        "--peer", help="the executable of vllm-router (pip install vllm-router==0.1.17), for its figures"
    )
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        print(json.dumps(run_loop(generate(*json.loads(arguments.generate)))))
        return
    with ExitStack() as stack:
        stubs = [start_stub(stack) for _ in range(2)]
        routers = {f"vidur-router {name}": start_router(stack, stubs, name) for name in ("ppo", "round_robin")}
        ways = {"direct": stubs[0], **routers}
        if arguments.peer:
            for policy in ("round_robin", "cache_aware"):
                ways[f"vllm-router {policy}"] = start_peer(stack, arguments.peer, stubs, policy)
        else:
            print("vllm-router is left out: give its executable by --peer")
        for way in ways.values():
            load(way.port, 200)
        for stream in (False, True):
            compare(ways, arguments.requests, arguments.rounds, stream)
        ppo = routers["vidur-router ppo"]
        print(f"\nppo's decisions left to the fallback: {100 * fallback_share(ppo):.2f} %", flush=True)
        if arguments.memory_requests:
            measure_memory(ppo, arguments.memory_requests)
        if arguments.streams:
            measure_streams(stack, arguments.streams)


if __name__ == "__main__":
    main()
