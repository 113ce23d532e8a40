"""Record what routers in production decide, for the tests that compare ours with them.

python scripts/record_router_decisions.py --bin VENV/bin --out tests/router_decisions.json

VENV has `pip install vllm-router sglang-router`. Each router runs in front of workers that answer when told to. A
script of requests is sent one after the other; some stay outstanding, so that loads differ. The file names the
packages' versions and has, per recording, the settings, the arguments of the script, a checksum of its texts, and the
number of the worker that each request reached.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

WORKERS = 4
PATIENCE = 60.0  # seconds
CHARACTERS = 4  # of a word
COMPLETIONS = "/v1/completions"
THRESHOLDS = {"cache_threshold": 0.5, "balance_abs_threshold": 3, "balance_rel_threshold": 1.2}


class Step(NamedTuple):
    """send: the number of a request that is sent, or -1; then `release` is the number of one that is answered."""

    send: int
    release: int
    text: str = ""
    session: int = -1


@dataclass
class Answers:
    """Which worker each request reached, and which requests may be answered. A request's number is its max_tokens."""

    reached: dict[int, int] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, done: Any) -> None:
        with self.changed:
            if not self.changed.wait_for(done, PATIENCE):
                raise TimeoutError("the router did not pass a request on")

    def reach(self, number: int, worker: int) -> None:
        with self.changed:
            assert number not in self.reached
            self.reached[number] = worker
            self.changed.notify_all()

    def release(self, number: int) -> None:
        with self.changed:
            self.released.add(number)
            self.changed.notify_all()


def serve(worker: int, answers: Answers) -> ThreadingHTTPServer:
    """Start a worker on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({"data": [{"id": "stub", "object": "model"}], "model_path": "stub", "tp_size": 1})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/tokenize":
                words = asked["prompt"].split()
                self._answer(
                    {"tokens": [int(word, 16) for word in words], "count": len(words), "max_model_len": 1 << 20}
                )
                return
            if self.path != COMPLETIONS:  # vllm-router would rather have it rendered
                self._answer({}, 404)
                return
            number = asked["max_tokens"]
            answers.reach(number, worker)
            answers.wait(lambda: number in answers.released)
            self._answer({"id": "stub", "object": "text_completion", "choices": [{"index": 0, "text": "word"}]})

        def _answer(self, value: Any, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def script(seed: int, requests: int, most: int, sessions: int) -> list[Step]:
    """Return requests of a few groups with common prefixes, in words of four characters, and answers to some that are
    outstanding. most: of these at once. sessions: how many sessions the requests name, or 0."""
    rng = random.Random(seed)

    def words(count: int) -> str:
        return "".join(f"{rng.randrange(16**3):03x} " for _ in range(count))

    prefixes = [words(rng.randrange(20, 60)) for _ in range(8)]
    made: list[Step] = []
    outstanding: list[int] = []
    for number in range(1, requests + 1):
        while outstanding and (len(outstanding) >= most or rng.random() < 0.3):
            made.append(Step(-1, outstanding.pop(rng.randrange(len(outstanding)))))
        group = rng.randrange(len(prefixes))
        text = prefixes[group] + words(rng.randrange(5, 60))
        if rng.random() < 0.5:
            prefixes[group] = text  # the conversation goes on
        if len(prefixes[group]) > 1600:
            prefixes[group] = words(30)
        made.append(Step(number, -1, text, rng.randrange(sessions) if sessions else -1))
        outstanding.append(number)
    return made


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run a router until the block ends; enter it once the router serves."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/v1/models")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
            finally:
                connection.close()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def ask(port: int, step: Step) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * PATIENCE)
    body = json.dumps({"model": "stub", "prompt": step.text, "max_tokens": step.send, "stream": False})
    headers = {"content-type": "application/json"} | ({} if step.session < 0 else {"x-session-id": str(step.session)})
    connection.request("POST", COMPLETIONS, body, headers)
    connection.getresponse().read()
    connection.close()


def record(command: list[str], policy: str, settings: dict[str, float], arguments: list[int]) -> dict[str, Any]:
    """Send a script through a router and note where each request went."""
    answers, steps = Answers(), script(*arguments)
    servers = [serve(worker, answers) for worker in range(WORKERS)]
    urls = [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    asking: dict[int, threading.Thread] = {}
    with running([*command, "--worker-urls", *urls, "--policy", policy, "--port", str(port), *flags], port):
        for step in steps:
            if step.send < 0:
                answers.release(step.release)
                asking.pop(step.release).join()
                continue
            asking[step.send] = threading.Thread(target=ask, args=(port, step))
            asking[step.send].start()
            answers.wait(lambda number=step.send: number in answers.reached)
        for number, thread in asking.items():
            answers.release(number)
            thread.join()
    for server in servers:
        server.shutdown()
    workers = [answers.reached[number] for number in sorted(answers.reached)]
    return {
        "policy": policy, "settings": settings, "urls": urls, "script": arguments, "checksum": checksum(steps),
        "workers": workers,
    }  # fmt: skip


def checksum(steps: list[Step]) -> int:
    return zlib.crc32("".join(step.text for step in steps).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True, help="folder of the routers' commands")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    given = parser.parse_args()
    vllm, sglang = [str(given.bin / "vllm-router")], [str(given.bin / "sglang-router"), "launch"]
    recordings = {
        "vllm-router consistent_hash": record(vllm, "consistent_hash", {}, [1, 120, 3, 40]),
        "vllm-router cache_aware": record(vllm, "cache_aware", THRESHOLDS, [2, 200, 24, 0]),
        "sglang-router cache_aware": record(sglang, "cache_aware", THRESHOLDS, [3, 200, 24, 0]),
        "sglang-router cache_aware, defaults": record(sglang, "cache_aware", {}, [4, 200, 150, 0]),
    }
    folder = given.bin.parent / "lib"
    versions = {
        found.metadata["name"]: found.version
        for found in distributions(path=[str(path) for path in folder.glob("python*/site-packages")])
        if found.metadata["name"] in ("vllm-router", "sglang-router")
    }
    about = "Made by scripts/record_router_decisions.py: which worker each request reached."
    given.out.write_text(json.dumps({"about": about, "versions": versions, "recordings": recordings}) + "\n")


if __name__ == "__main__":
    main()
