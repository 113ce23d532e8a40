"""The router passes requests and answers on as they are: over real sockets, to real processes."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import openai
import pytest
from router_processes import (
    ROOT,
    TOKEN,
    Client,
    Response,
    RouterUnderTest,
    Stub,
    ask,
    completion,
    get,
    message,
    post,
    running,
    wait_until,
)


@pytest.fixture(scope="module")
def stubs() -> Iterator[list[Stub]]:
    pair = [Stub("a"), Stub("b", token_seconds=0.02)]
    with running(*pair):
        yield pair


@pytest.fixture(scope="module")
def router(stubs: list[Stub]) -> Iterator[RouterUnderTest]:
    process = RouterUnderTest([stub.url for stub in stubs])
    with running(process):
        yield process


def test_request_arrives_as_it_was_sent(router: RouterUnderTest) -> None:
    body = bytes(range(256))
    target = "/v1/echo/%2F%7e?b=%20&a=1&&x=%C3%A9#"[:-1]
    lines = ("X-Thing: one", "x-thing: two", "ACCEPT: */*", "Authorization: Bearer user", "Accept-Encoding: gzip")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        seen = ask(router.port, message(method, target.replace("/echo/", "/echo?p="), body, lines)).json()
        assert seen["method"] == method
        assert seen["target"] == target.replace("/echo/", "/echo?p=")
        assert seen["body"].encode("latin-1") == body
        kept = [f"{name}: {value}" for name, value in seen["headers"]]
        assert kept[: len(lines)] == list(lines)
        assert dict(seen["headers"])["Content-Length"] == "256"


def test_hop_by_hop_headers_go_no_further(router: RouterUnderTest) -> None:
    hops = ("Connection: X-Mine, keep-alive", "X-Mine: 1", "Keep-Alive: 5", "TE: trailers", "Proxy-Authorization: x",
            "Upgrade: h2c", "Trailer: X-T", "X-Kept: yes")  # fmt: skip
    response = get(router.port, "/v1/echo", *hops)
    names = {name.lower() for name, _ in response.json()["headers"]}
    assert names == {"host", "x-kept", "x-forwarded-for"}
    assert [(name, value) for name, value in response.headers if name.lower() == "x-twice"] == [
        ("X-Twice", "1"), ("x-twice", "2")
    ]  # fmt: skip
    assert response.header("X-Hop") is None
    assert "X-Hop" not in (response.header("Connection") or "")


def test_host_is_the_replicas_and_the_client_is_named(router: RouterUnderTest, stubs: list[Stub]) -> None:
    fields = dict(get(router.port, "/v1/echo", "X-Forwarded-For: 10.1.2.3").json()["headers"])
    assert fields["Host"] in {stub.url.removeprefix("http://") for stub in stubs}
    assert fields["X-Forwarded-For"] == "10.1.2.3, 127.0.0.1"


@pytest.mark.parametrize("header", [f"Authorization: Bearer {TOKEN}", f"X-Copy: {TOKEN}"])
def test_admin_token_goes_no_further(router: RouterUnderTest, header: str) -> None:
    assert TOKEN not in get(router.port, "/v1/echo", header).body.decode()


def test_chunked_request_arrives_whole(router: RouterUnderTest) -> None:
    with Client(router.port) as client:
        client.send(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        time.sleep(0.05)
        client.send(b"4;ext=1\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n")
        seen = client.read().json()
    assert seen["body"] == "abcdefg"
    assert dict(seen["headers"])["Content-Length"] == "7"
    assert "Transfer-Encoding" not in dict(seen["headers"])


@pytest.mark.parametrize("segment", [1, 7, 100_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_upgrade_is_not_taken(router: RouterUnderTest, segment: int, chunked: bool) -> None:
    """The request is served as it is, its body is not taken for another request, and the next one is found."""
    body = message("GET", "/replicas")
    upgrade = "Connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
    whole = message("POST", "/v1/echo?a=b", body, upgrade)
    if chunked:
        head = message("POST", "/v1/echo?a=b", headers=("Transfer-Encoding: chunked", *upgrade))
        whole = head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    data = whole + message("GET", "/v1/echo", headers=upgrade) + whole
    with Client(router.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), segment):
            client.send(data[start : start + segment])
        for method, target, expected in (
            ("POST", "/v1/echo?a=b", body), ("GET", "/v1/echo", b""), ("POST", "/v1/echo?a=b", body),
        ):  # fmt: skip
            seen = client.read().json()
            assert (seen["method"], seen["target"], seen["body"]) == (method, target, expected.decode())
            assert not {"upgrade", "http2-settings"} & {name.lower() for name, _ in seen["headers"]}
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.more()


def test_expect_continue_is_answered(router: RouterUnderTest) -> None:
    with Client(router.port) as client:
        client.send(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"ok")
        assert client.read().json()["body"] == "ok"


def test_answer_is_the_same_as_direct(router: RouterUnderTest, stubs: list[Stub]) -> None:
    for data in (
        completion(),
        completion(stream=True),
        completion(stream=True, stream_options={"include_usage": True}),
    ):
        direct, routed = ask(stubs[0].port, data), ask(router.port, data)
        assert routed == direct


def test_head_and_keep_alive_and_pipelining(router: RouterUnderTest) -> None:
    with Client(router.port) as client:
        client.send(message("HEAD", "/v1/echo"))
        assert client.read("HEAD").status == 200
        client.send(message("GET", "/v1/models") + completion(stream=True) + message("GET", "/v1/echo?last"))
        assert client.read().json()["object"] == "list"
        assert client.read().body.endswith(b"data: [DONE]\n\n")
        assert client.read().json()["target"] == "/v1/echo?last"


def test_client_of_http_1_0_gets_a_body_without_chunks(router: RouterUnderTest) -> None:
    body = json.dumps({"prompt": "x", "stream": True, "max_tokens": 2}).encode()
    with Client(router.port) as client:
        client.send(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        response = client.read()
    assert response.header("Transfer-Encoding") is None
    assert response.body.startswith(b"data: {") and response.body.endswith(b"data: [DONE]\n\n")


def test_stream_is_not_held_back(stubs: list[Stub], router: RouterUnderTest) -> None:
    """With 20 ms between tokens, the first must come long before the last."""
    for _ in range(2):
        with Client(router.port) as client:
            client.send(completion(stream=True, max_tokens=50))
            client.until(b"data: ")
            first = time.monotonic()
            assert client.until(b"[DONE]").endswith(b"[DONE]")
            if time.monotonic() - first > 0.5:
                return
    raise AssertionError("both streams came at once, though one of the replicas is slow")


def test_openai_client(router: RouterUnderTest) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{router.port}/v1", api_key="none", max_retries=0) as client:
        assert client.models.list().data[0].id == "stub"
        whole = client.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "hello"}], max_tokens=3
        )
        assert whole.choices[0].message.content == "word word word"
        stream = client.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "hello"}], max_tokens=5, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == " word" * 5
        missing = pytest.raises(openai.NotFoundError)
        with missing:
            client.embeddings.create(model="stub", input="x")


def test_client_that_leaves_frees_the_replica(router: RouterUnderTest, stubs: list[Stub]) -> None:
    slow = stubs[1]
    aborted = slow.state()["aborted"]
    clients = [Client(router.port) for _ in range(2)]  # round robin: one of them is on the slow one
    for client in clients:
        client.send(completion(stream=True, max_tokens=10_000))
        client.until(b"data: ")
    for client in clients:
        client.socket.close()
    wait_until(lambda: slow.state()["aborted"] == aborted + 1)
    wait_until(lambda: all(each["outstanding"] == 0 and each["in_flight"] == 0 for each in router.replicas()))


def test_books_are_kept(router: RouterUnderTest, stubs: list[Stub]) -> None:
    slow = stubs[1]
    before = router.replica(slow)
    answers: list[Response] = []
    data = completion(stream=True, max_tokens=100, prompt=list(range(77)))
    threads = [threading.Thread(target=lambda: answers.append(ask(router.port, data))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: router.replica(slow)["streamed_tokens"] >= 5)
    during = router.replica(slow)
    assert during["outstanding"] == 1 and during["prompt_tokens"] == 77 and during["awaiting_first_token"] == 0
    for thread in threads:
        thread.join()
    after = router.replica(slow)
    assert after["finished"] == before["finished"] + 1
    assert after["output_tokens"] == before["output_tokens"] + 100
    assert after["outstanding"] == after["streamed_tokens"] == 0
    assert 0.01 < after["tpot"] < 1.0


def test_answers_without_usage_teach_nothing_of_prompts(stubs: list[Stub]) -> None:
    """Of a text whose tokens the router guesses at a third of what the replica counts."""
    usage = {"stream_options": {"include_usage": True}}
    process = RouterUnderTest([stubs[0].url])
    with running(process):
        for number in range(64):
            counted = usage if number in (60, 61, 62) else {}
            assert ask(process.port, completion(stream=True, max_tokens=1, prompt="é" * 1000, **counted)).status == 200
        lines = process.end()
    guesses = [line["prompt_tokens"] for line in lines]
    assert guesses[:60] == [500] * 60 and guesses[60] > 1400 and 800 < guesses[63] < 1000


def test_a_request_arrives_when_it_is_whole(stubs: list[Stub]) -> None:
    body = completion(prompt=[1, 2, 3], max_tokens=1)
    process = RouterUnderTest([stubs[0].url])
    with running(process):
        with Client(process.port) as client:
            client.send(body[:-5])
            time.sleep(0.5)
            client.send(body[-5:])
            assert client.read().status == 200
        (line,) = process.end()
    assert line["e2e_s"] < 0.4


def test_compressed_bodies_are_left_alone(router: RouterUnderTest) -> None:
    packed = gzip.compress(b'{"prompt": "x"}')
    seen = ask(router.port, message("POST", "/v1/echo", packed, ("Content-Encoding: gzip",))).json()
    assert seen["body"].encode("latin-1") == packed


def test_other_paths_are_not_passed_on(router: RouterUnderTest) -> None:
    for target in ("/stub/state", "/collective_rpc", "/", "/v1", "/replicas/", "/metrics/../stub/state"):
        assert get(router.port, target).status == 404
    assert post(router.port, "/tokenize", {"prompt": "x"}).json()["count"] > 0


def test_requests_are_routed_by_the_scheduler(router: RouterUnderTest, stubs: list[Stub]) -> None:
    before = [stub.state()["served"] for stub in stubs]
    for _ in range(6):
        assert ask(router.port, completion()).status == 200
    assert [stub.state()["served"] - count for stub, count in zip(stubs, before, strict=True)] == [3, 3]


def test_asyncios_own_loop(stubs: list[Stub]) -> None:
    router = RouterUnderTest([stubs[1].url], "--no-uvloop")
    with running(router), Client(router.port) as client:
        assert ask(router.port, completion(stream=True)).whole and ask(router.port, completion()).status == 200
        aborted = stubs[1].state()["aborted"]
        client.send(completion(stream=True, max_tokens=10_000))
        client.until(b"data: ")
        client.socket.close()
        wait_until(lambda: stubs[1].state()["aborted"] == aborted + 1)
        assert len(router.end()) == 3


def test_serving_needs_neither_torch_nor_numba() -> None:
    heavy = ("torch", "numba", "ray", "pandas", "aiohttp")
    code = f"import sys, rl.vllm.router; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
