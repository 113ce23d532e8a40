"""Serve a stub of vLLM's HTTP server without a model, for tests and for measuring a router.

python scripts/stub_replica.py --port 8101

One asyncio process with a minimal parser, so that measurements show the router. A completion has `max_tokens` tokens
(default 16), `--token-seconds` apart after `--first-seconds`. Besides the OpenAI paths it has /v1/echo (the request as
it arrived), /stub/state (GET: counts) and /stub/faults (POST: a JSON object merged into `Faults`). Prints its port once
it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from dataclasses import dataclass
from typing import Any, cast

HEAD_END = b"\r\n\r\n"


@dataclass
class Faults:
    """Faults to inject until reset. status: answer generation with this status (0: normally); hang: accept requests and
    never answer; die_after: SIGKILL the process after this many events of a stream (-1: never); cut_after: close the
    connection after this many events; metrics: replaces the text of /metrics; unhealthy: /health answers 503; redirect:
    answer generation with a redirect to this address."""

    status: int = 0
    hang: bool = False
    die_after: int = -1
    cut_after: int = -1
    metrics: str = ""
    unhealthy: bool = False
    redirect: str = ""


class Stub:
    """The state of a replica, shared by its connections."""

    def __init__(self, name: str, first_seconds: float, token_seconds: float) -> None:
        self.name = name
        self.first_seconds = first_seconds
        self.token_seconds = token_seconds
        self.faults = Faults()
        self.active = self.served = self.aborted = self.connections = 0

    def state(self) -> dict[str, Any]:
        counts = {key: getattr(self, key) for key in ("active", "served", "aborted", "connections")}
        return {"name": self.name, "pid": os.getpid(), **counts}

    def metrics(self) -> str:
        labels = '{engine="0",model_name="stub"}'
        return (
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{labels} {float(self.active)}\n"
            f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{labels} 0.0\n"
            f"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{labels} {min(self.active / 256, 1.0)}\n"
            f"# TYPE vllm:num_preemptions_total counter\nvllm:num_preemptions_total{labels} 0.0\n"
            f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="4096"}} 1.0\n'
        )


class StubConnection(asyncio.Protocol):
    """A client connection, kept alive for sequential requests."""

    transport: asyncio.Transport

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._generating = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._stub.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._stub.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
        if self._generating:
            self._stub.active -= 1
            self._stub.aborted += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._generating:
            self._next()

    def _next(self) -> None:
        end = self._buffer.find(HEAD_END)
        if end < 0:
            return
        head, rest = self._buffer[:end], self._buffer[end + 4 :]
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        path = target.partition(b"?")[0]
        if method == b"POST" and path in (b"/v1/completions", b"/v1/chat/completions", b"/v1/responses"):
            self._generate(json.loads(body), chat=path != b"/v1/completions")
        else:
            self._answer(method, path, target, head, body)

    def _answer(self, method: bytes, path: bytes, target: bytes, head: bytes, body: bytes) -> None:
        stub = self._stub
        if stub.faults.hang and not path.startswith(b"/stub"):
            return
        if path == b"/health":
            self._send(503 if stub.faults.unhealthy else 200, b"", "text/plain")
        elif path == b"/metrics":
            self._send(200, (stub.faults.metrics or stub.metrics()).encode("utf-8", "surrogateescape"), "text/plain")
        elif path == b"/stub/state":
            self._send_json(stub.state())
        elif path == b"/stub/faults":
            for key, value in json.loads(body).items():
                setattr(stub.faults, key, value)
            self._send_json(vars(stub.faults))
        elif path == b"/v1/models":
            self._send_json({"object": "list", "data": [{"id": "stub", "object": "model", "owned_by": stub.name}]})
        elif path == b"/tokenize":
            self._send_json({"count": len(body), "replica": stub.name})
        elif path == b"/v1/echo":
            lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
            seen = {
                "method": method.decode(),
                "target": target.decode("latin-1"),
                "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in lines],
                "body": body.decode("latin-1"),
                "replica": stub.name,
            }
            self._send_json(
                seen, b"X-Twice: 1\r\nx-twice: 2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: secret\r\n", method
            )
        else:
            self._send(404, b'{"error":"not found"}', "application/json")

    def _send_json(self, value: Any, headers: bytes = b"", method: bytes = b"GET") -> None:
        self._send(200, json.dumps(value).encode(), "application/json", headers, method)

    def _send(self, status: int, body: bytes, kind: str, headers: bytes = b"", method: bytes = b"GET") -> None:
        head = f"HTTP/1.1 {status} Stub\r\nserver: stub\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + headers + b"\r\n" + (b"" if method == b"HEAD" else body))
        if self._buffer:
            self._next()

    def _generate(self, request: dict[str, Any], chat: bool) -> None:
        stub = self._stub
        if stub.faults.hang:
            return
        if stub.faults.redirect:
            self._send(302, b"", "text/plain", f"location: {stub.faults.redirect}\r\n".encode())
            return
        if stub.faults.status:
            self._send(stub.faults.status, b'{"error":{"message":"the stub was told to fail"}}', "application/json")
            return
        tokens = int(request.get("max_tokens", request.get("max_completion_tokens", 16)))
        prompt = request.get("prompt", request.get("messages", ""))
        length = len(prompt) if isinstance(prompt, list) and not chat else len(json.dumps(prompt)) // 4
        usage = f'"usage":{{"prompt_tokens":{length},"total_tokens":{length + tokens},"completion_tokens":{tokens}}}'
        stub.active += 1
        self._generating = True
        if not request.get("stream"):
            words = " ".join(["word"] * tokens)
            choice = (
                f'{{"index":0,"message":{{"role":"assistant","content":"{words}"}},"finish_reason":"length"}}'
                if chat
                else f'{{"index":0,"text":"{words}","finish_reason":"length"}}'
            )
            kind = "chat.completion" if chat else "text_completion"
            text = f'{{"id":"stub-1","object":"{kind}","created":1,"model":"stub","choices":[{choice}],{usage}}}'
            self._later(stub.first_seconds + tokens * stub.token_seconds, self._whole, text.encode())
            return
        delta = '"delta":{"content":" word"}' if chat else '"text":" word"'
        kind = "chat.completion.chunk" if chat else "text_completion"
        start = f'{{"id":"stub-1","object":"{kind}","created":1,"model":"stub","choices":['
        event = f'data: {start}{{"index":0,{delta},"finish_reason":null}}]}}\n\n'.encode()
        wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        last = (f"data: {start}],{usage}}}\n\n" if wants_usage else "") + "data: [DONE]\n\n"
        self._later(stub.first_seconds, self._first_event, event, last.encode(), tokens)

    def _later(self, seconds: float, call: Any, *arguments: Any) -> None:
        if seconds > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds, call, *arguments)
        else:
            call(*arguments)

    def _whole(self, body: bytes) -> None:
        self._finished()
        self._send(200, body, "application/json")

    def _first_event(self, event: bytes, last: bytes, tokens: int) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        self._event(event, last, tokens, 0)

    def _event(self, event: bytes, last: bytes, tokens: int, sent: int) -> None:
        faults = self._stub.faults
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        while sent < tokens:
            if sent == faults.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if sent == faults.cut_after:
                self.transport.abort()
                return
            self.transport.write(chunk)
            sent += 1
            if self._stub.token_seconds > 0 and sent < tokens:
                self._later(self._stub.token_seconds, self._event, event, last, tokens, sent)
                return
        self._finished()
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        if self._buffer:
            self._next()

    def _finished(self) -> None:
        self._stub.active -= 1
        self._stub.served += 1
        self._generating = False


async def serve(stub: Stub, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: StubConnection(stub), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--name", default="stub")
    parser.add_argument("--first-seconds", type=float, default=0.0)
    parser.add_argument("--token-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    stub = Stub(arguments.name, arguments.first_seconds, arguments.token_seconds)
    try:
        import uvloop
    except ImportError:
        run: Any = asyncio.run
    else:
        run = uvloop.run
    run(serve(stub, arguments.port))


if __name__ == "__main__":
    main()
