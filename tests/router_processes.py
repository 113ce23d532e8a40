"""A router and stub replicas as processes of their own, and a client that sees every byte."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "scripts" / "stub_replica.py"
PATIENCE = 30.0  # seconds that anything may take on a busy machine
TOKEN = "a-token-of-the-tests"
# What makes faults show soon.
HASTY = ("--health_interval", "0.1", "--health_timeout", "1", "--breaker_seconds", "0.2", "--scrape_interval", "0.1")


class Response(NamedTuple):
    """whole: whether the body came to its proper end."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection; `send` and `read` are separate, so that a test can do something in between."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        """Read what comes next; False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)

    def until(self, text: bytes) -> bytes:
        """What has come, up to and with `text`; all of it if the connection ends before."""
        while text not in self.buffer:
            if not self.more():
                found, self.buffer = self.buffer, b""
                return found
        end = self.buffer.index(text) + len(text)
        found, self.buffer = self.buffer[:end], self.buffer[end:]
        return found

    def exactly(self, size: int) -> tuple[bytes, bool]:
        while len(self.buffer) < size:
            if not self.more():
                found, self.buffer = self.buffer, b""
                return found, False
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found, True

    def read(self, method: str = "GET") -> Response:
        head = self.until(b"\r\n\r\n")
        assert head.endswith(b"\r\n\r\n"), f"no answer but {head!r}"
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        fields = {name.lower(): value for name, value in headers}
        status = int(first.split(" ")[1])
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"", True)
        if "content-length" in fields:
            return Response(status, headers, *self.exactly(int(fields["content-length"])))
        if fields.get("transfer-encoding") == "chunked":
            return Response(status, headers, *self._chunks())
        while self.more():
            pass
        return Response(status, headers, self.buffer, True)

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            line = self.until(b"\r\n")
            if not line.endswith(b"\r\n"):
                return body, False
            size = int(line, 16)
            data, whole = self.exactly(size + 2)
            body += data[:size]
            if size == 0 or not whole:
                return body, whole and size == 0


def message(method: str, target: str, body: bytes | None = None, headers: tuple[str, ...] = ()) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: router.test", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def completion(**fields: Any) -> bytes:
    """A completion request, whole."""
    body = json.dumps({"model": "stub", "prompt": [1, 2, 3, 4], "max_tokens": 4, **fields}).encode()
    return message("POST", "/v1/completions", body, ("Content-Type: application/json",))


def ask(port: int, data: bytes) -> Response:
    """The answer to one request on a connection of its own."""
    with Client(port) as client:
        client.send(data)
        return client.read(data.split(b" ", 1)[0].decode("latin-1"))


def get(port: int, target: str, *headers: str) -> Response:
    return ask(port, message("GET", target, headers=headers))


def post(port: int, target: str, document: Any, *headers: str) -> Response:
    return ask(port, message("POST", target, json.dumps(document).encode(), headers))


def wait_until(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `what()` is true; an AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Process:
    """A child process that tells its port."""

    def __init__(
        self, command: list[str], stream: str, pattern: str, environment: dict[str, str] | None = None
    ) -> None:
        self.child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
        )  # fmt: skip
        self.output = ""
        self._stream = getattr(self.child, stream)
        self.port = int(self.wait_for(pattern))

    def wait_for(self, pattern: str) -> str:
        """The first group of `pattern` in the output so far or to come."""
        deadline = time.monotonic() + 60.0
        while (found := re.search(pattern, self.output)) is None:
            ready, _, _ = select.select([self._stream], [], [], max(deadline - time.monotonic(), 0.0))
            data = os.read(self._stream.fileno(), 65536) if ready else b""
            if not data:
                self.child.kill()
                raise AssertionError(f"no {pattern!r} in {self.output!r}")
            self.output += data.decode()
        return found[1]

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
        self.child.communicate(timeout=PATIENCE)


class Stub(Process):
    """A stub replica."""

    def __init__(self, name: str = "stub", port: int = 0, **seconds: float) -> None:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in seconds.items()]
        super().__init__([sys.executable, str(STUB), f"--port={port}", f"--name={name}", *flags], "stdout", r"(\d+)\n")
        self.url = f"http://127.0.0.1:{self.port}"

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = get(self.port, "/stub/state").json()
        return state

    def fault(self, **faults: Any) -> None:
        assert post(self.port, "/stub/faults", faults).status == 200


class RouterUnderTest(Process):
    """A router in front of `urls`, once it is ready."""

    def __init__(self, urls: list[str], *flags: str, scheduler: str = "round_robin", ready: bool = True) -> None:
        command = [sys.executable, "-m", "rl.vllm.router", "--port", "0", "--access_log", "-", "--scheduler", scheduler]
        command += [word for url in urls for word in ("--replica", url)]
        super().__init__([*command, *HASTY, *flags], "stderr", r"listening at http://127\.0\.0\.1:(\d+)",
                         {"VIDUR_ROUTER_ADMIN_TOKEN": TOKEN})  # fmt: skip
        if ready:
            wait_until(lambda: all(each["running"] is not None for each in self.replicas()))

    def replicas(self) -> list[dict[str, Any]]:
        replicas: list[dict[str, Any]] = get(self.port, "/replicas").json()["replicas"]
        return replicas

    def replica(self, stub: Stub) -> dict[str, Any]:
        return next(each for each in self.replicas() if each["url"] == stub.url)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        total = 0.0
        for line in get(self.port, "/metrics").body.decode().splitlines():
            if re.match(rf"vidur_router_{name}[ {{]", line) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def end(self) -> list[dict[str, Any]]:
        """Stop it by SIGTERM; the lines of its access log."""
        self.signal(signal.SIGTERM)
        output, _ = self.child.communicate(timeout=PATIENCE)
        assert self.child.returncode == 0
        return [json.loads(line) for line in output.decode().splitlines()]


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.stop()
