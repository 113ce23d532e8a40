"""Clients that ask too much, too slowly, or for what is not theirs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from router_processes import (
    Client,
    Response,
    RouterUnderTest,
    Stub,
    ask,
    completion,
    get,
    message,
    running,
    wait_until,
)

LIMITS = (
    "--max_header_bytes", "2000", "--max_body_bytes", "5000", "--header_timeout", "0.4", "--body_timeout", "0.4",
    "--idle_timeout", "0.6", "--max_connections", "40",
)  # fmt: skip


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    process = Stub("stub", first_seconds=0.2)
    with running(process):
        yield process


@pytest.fixture(scope="module")
def router(stub: Stub) -> Iterator[RouterUnderTest]:
    process = RouterUnderTest([stub.url], *LIMITS)
    with running(process):
        yield process


def refusal(port: int, *pieces: bytes) -> Response:
    """The answer to bytes that are no good request; the connection must close after it."""
    with Client(port) as client:
        for piece in pieces:
            client.send(piece)
            time.sleep(0.02)  # for it to come by itself
        response = client.read()
        assert response.header("connection") == "close"
        assert not client.more()
        return response


BAD = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400),
    "no version": (b"GET /\r\n\r\n", 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "length and chunks": (b"POST / HTTP/1.1\r\nHost:x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "two lengths": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "odd coding": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "bad chunk": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "bare newline": (b"GET /v1/models HTTP/1.1\nHost: x\n\n", 400),
    "null": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
    "folded": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n A: b\r\n\r\n", 400),
    "expectation": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 1\r\n\r\n", 417),
    "absolute": (b"GET http://127.0.0.1:1/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "connect": (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "connect to a path": (b"CONNECT /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 400),
    "upgrade of two lengths": (
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n"
        b"Content-Length: 4\r\n\r\nabc", 400,
    ),
    "upgrade without host": (b"GET /v1/echo HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 400),
    "upgrade of an odd version": (b"GET / HTTP/2.0\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 505),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused(router: RouterUnderTest, name: str) -> None:
    data, status = BAD[name]
    assert refusal(router.port, data).status == status


def test_only_configured_replicas_are_called(router: RouterUnderTest, stub: Stub) -> None:
    """Whatever Host says, the request goes to the replica, under the replica's own name."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        host = f"127.0.0.1:{other.getsockname()[1]}"
        for line in (f"Host: {host}", f"Host: x\r\nX-Forwarded-Host: {host}", f"Host: x\r\nForwarded: host={host}"):
            data = f"GET /v1/echo HTTP/1.1\r\n{line}\r\n\r\n".encode()
            assert dict(ask(router.port, data).json()["headers"])["Host"] == stub.url.removeprefix("http://")
        for target in ("//127.0.0.1:1/v1/models", f"/http://{host}/v1/models", "/v1@127.0.0.1/"):
            assert get(router.port, target).status == 404
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("name", ["null", "two lengths", "connect", "odd coding"])
def test_bad_bytes_behind_a_request_leave_its_answer_whole(router: RouterUnderTest, name: str) -> None:
    data, status = BAD[name]
    with Client(router.port) as client:
        client.send(completion() + completion(stream=True, max_tokens=9) + data)
        assert client.read().json()["usage"]["completion_tokens"] == 4
        second = client.read()
        assert second.whole and second.body.count(b"data: {") == 9
        refused = client.read()
        assert refused.status == status and refused.header("connection") == "close"
        assert not client.more()


def test_too_many_pipelined_requests(router: RouterUnderTest) -> None:
    with Client(router.port) as client:
        client.send(message("GET", "/v1/models") * 100)
        statuses = []
        while client.buffer or client.more():
            statuses.append(client.read().status)
        assert statuses == [200] * 65 + [429]


def test_giant_headers(router: RouterUnderTest) -> None:
    assert refusal(router.port, message("GET", "/v1/models", headers=("A: " + "x" * 3000,))).status == 431
    assert refusal(router.port, message("GET", "/v1/" + "x" * 3000)).status == 431
    assert refusal(router.port, message("GET", "/v1/models", headers=("A: b",) * 600)).status == 431
    # Without an end, too: it is refused while it comes.
    assert refusal(router.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: ", b"x" * 3000).status == 431
    # Trailers count as headers do.
    head = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    assert refusal(router.port, head, b"A: " + b"x" * 3000).status == 431


def test_giant_bodies(router: RouterUnderTest) -> None:
    assert refusal(router.port, message("POST", "/v1/echo", b"x" * 5001)).status == 413
    assert (
        refusal(router.port, b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n").status == 413
    )
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    head = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refusal(router.port, head, chunk + chunk).status == 413
    assert ask(router.port, message("POST", "/v1/echo", b"x" * 5000)).status == 200


@pytest.mark.parametrize(
    "start",
    [b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"],
)
def test_slow_loris(router: RouterUnderTest, start: bytes) -> None:
    """A byte now and then does not buy time."""
    with Client(router.port) as client:
        client.send(start)
        began = time.monotonic()
        client.socket.settimeout(0.05)
        while not client.buffer and time.monotonic() - began < 10:
            try:
                client.send(b"A")
                client.more()
            except TimeoutError:
                continue
        client.socket.settimeout(10)
        assert client.read().status == 408
        assert 0.3 < time.monotonic() - began < 5.0


@pytest.mark.parametrize("sent", [20, -5], ids=["head", "body"])
def test_next_request_has_its_time_from_the_end_of_the_answer_before_it(sent: int) -> None:
    """A request that is pipelined in two segments does not cut the answer that it waits for."""
    stub = Stub("slow", token_seconds=0.05)
    router = RouterUnderTest([stub.url], "--header_timeout", "0.5", "--body_timeout", "0.5")
    with running(stub, router), Client(router.port) as prompt, Client(router.port) as late:
        for client in (prompt, late):
            client.send(completion(stream=True, max_tokens=30) + completion()[:sent])
        for client in (prompt, late):
            first = client.read()
            assert first.whole and first.body.count(b"data: {") == 30
        prompt.send(completion()[sent:])
        assert prompt.read().status == 200
        began = time.monotonic()
        assert late.read().status == 408
        assert time.monotonic() - began < 5.0


def test_idle_connections_are_closed(router: RouterUnderTest) -> None:
    with Client(router.port) as silent, Client(router.port) as once:
        once.send(message("GET", "/v1/models"))
        assert once.read().status == 200
        began = time.monotonic()
        assert not once.more() and not silent.more()
        assert time.monotonic() - began < 5.0


def test_too_many_connections(router: RouterUnderTest) -> None:
    wait_until(lambda: router.metric("connections") == 1)
    many = [Client(router.port) for _ in range(40)]
    try:
        assert refusal(router.port, b"").status == 503
    finally:
        for client in many:
            client.socket.close()
    wait_until(lambda: get(router.port, "/health").status == 200)


def test_bodies_are_held_only_while_they_are_needed(stub: Stub) -> None:
    router = RouterUnderTest([stub.url], "--max_buffered_bytes", "10000")
    with running(router), Client(router.port) as first, Client(router.port) as left:
        first.send(message("POST", "/v1/echo", b"x" * 9000)[:-1])
        wait_until(lambda: router.metric("buffered_bytes") == 8999)
        assert refusal(router.port, message("POST", "/v1/echo", b"x" * 2000)).status == 503
        left.send(message("POST", "/v1/echo", b"x" * 1000)[:-1])
        wait_until(lambda: router.metric("buffered_bytes") == 9998)
        left.socket.close()
        first.send(b"x")
        assert len(first.read().json()["body"]) == 9000
        wait_until(lambda: router.metric("buffered_bytes") == 0)


def test_refusals_are_counted(router: RouterUnderTest) -> None:
    before = router.metric("refused_total", code="400")
    refusal(router.port, b"\x00\x00")
    assert router.metric("refused_total", code="400") == before + 1


def test_overload_is_refused_and_the_queue_is_first_come_first_served(stub: Stub) -> None:
    router = RouterUnderTest([stub.url], "--max_in_flight", "2", "--max_queue", "3")
    with running(router):
        answers: list[Response] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(router.port, completion()))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [answer.status for answer in answers]
        assert statuses.count(200) + statuses.count(429) == 12
        assert statuses.count(200) >= 5 and statuses.count(429) >= 1
        assert all(int(answer.header("Retry-After") or 0) >= 1 for answer in answers if answer.status == 429)
        wait_until(lambda: router.metric("admitted") == 0 and router.metric("queued") == 0)
        assert router.metric("overload_total") == statuses.count(429)


def test_long_wait_in_the_queue_is_refused(stub: Stub) -> None:
    router = RouterUnderTest([stub.url], "--max_in_flight", "1", "--queue_timeout", "0.3", "--health_interval", "60")
    with running(router), Client(router.port) as first, Client(router.port) as left:
        stub.fault(hang=True)
        try:
            first.send(completion())
            wait_until(lambda: router.metric("admitted") == 1)
            left.send(completion())
            wait_until(lambda: router.metric("queued") == 1)
            left.socket.close()
            assert ask(router.port, completion()).status == 429
            wait_until(lambda: router.metric("queued") == 0)
        finally:
            stub.fault(hang=False)
        first.socket.close()
        wait_until(lambda: router.metric("admitted") == 0)
        assert ask(router.port, completion()).status == 200


def test_client_that_reads_nothing_is_cut() -> None:
    stub = Stub("fast")
    router = RouterUnderTest([stub.url], "--write_timeout", "0.3")
    with running(stub, router), Client(router.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(completion(stream=True, max_tokens=150_000))  # more than the buffers of the kernel take
        wait_until(lambda: router.metric("clients_cut_total") == 1)
        wait_until(lambda: router.replicas()[0]["outstanding"] == 0)
        assert router.metric("clients_left_total") == 0
        (line,) = router.end()
        assert line["status"] == 200 and line["error"] == "cut: it took no byte for 0.3 s (--write_timeout)"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("loop", [(), ("--no-uvloop",)], ids=["uvloop", "asyncio"])
def test_client_that_reads_slowly_but_steadily_is_not_cut(stream: bool, loop: tuple[str, ...]) -> None:
    """The buffers before it hold seconds of what it takes."""
    stub = Stub("fast")
    router = RouterUnderTest([stub.url], "--write_timeout", "0.5", *loop)
    with running(stub, router), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", router.port))
        client.sendall(completion(stream=stream, max_tokens=150_000 if stream else 3_000_000))
        began = time.monotonic()
        while time.monotonic() - began < 4.0:
            assert client.recv(2048)
            time.sleep(0.02)
        assert router.metric("admitted") == 1
