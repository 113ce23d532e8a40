"""The router's own pages, the admin token, the log and the end of the process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from router_processes import (
    ROOT,
    TOKEN,
    Client,
    Process,
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

from rl.vllm.decide.gauges import EngineGauges, Push, format_push
from rl.vllm.process.router import main

FAMILIES = (
    "requests", "errors", "retries", "broken_answers", "overload", "clients_left", "clients_cut", "decision_seconds",
    "ttft_seconds", "tpot_seconds", "e2e_seconds", "queue_seconds", "decisions", "output_tokens", "breaker_state",
    "breaker_opened", "serving", "in_flight", "gauge_age_seconds", "scrapes_failed", "fallbacks", "shadow_decisions",
    "queued", "admitted", "connections", "refused", "log_lines_dropped", "pushes_malformed",
)  # fmt: skip
BEARER = f"Authorization: Bearer {TOKEN}"


@pytest.fixture(scope="module")
def stubs() -> Iterator[list[Stub]]:
    pair = [Stub("a"), Stub("b")]
    with running(*pair):
        yield pair


@pytest.fixture(scope="module")
def router(stubs: list[Stub]) -> Iterator[RouterUnderTest]:
    process = RouterUnderTest([stubs[0].url], "--shadow", "lor", "--push_port", "0", scheduler="ppo")
    with running(process):
        yield process


def test_health_and_ready(router: RouterUnderTest) -> None:
    for target in ("/health", "/ready"):
        assert get(router.port, target).status == 200
        head = ask(router.port, message("HEAD", target))
        assert head.status == 200 and head.body == b""
        assert post(router.port, target, {}).status == 405


@pytest.mark.parametrize("target", ["/metrics", "/replicas", "/dashboard", "/dashboard/events"])
def test_head_of_a_page_is_answered_whole(router: RouterUnderTest, target: str) -> None:
    with Client(router.port) as client:
        client.socket.settimeout(5)
        for _ in range(2):
            client.send(message("HEAD", target))
            assert client.read("HEAD").status == 200


def test_address_of_ipv6_is_told_as_a_url(stubs: list[Stub]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    flags = ["--host", "::1", "--port", "0", "--push_host", "::1", "--push_port", "0", "--scheduler", "lor"]
    command = [sys.executable, "-m", "rl.vllm.router", *flags, "--replica", stubs[0].url, "--access_log", ""]
    router = Process(command, "stderr", r"listening at http://\[::1\]:(\d+) ")
    with running(router):
        router.wait_for(r"listening for pushed gauges on udp \[::1\]:(\d+)")


def test_metrics_are_prometheus_text(router: RouterUnderTest, stubs: list[Stub]) -> None:
    for _ in range(3):
        assert ask(router.port, completion(stream=True, max_tokens=5)).status == 200
    response = get(router.port, "/metrics")
    assert (response.header("Content-Type") or "").startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.body.decode())}
    for name in FAMILIES:
        assert f"vidur_router_{name}" in families, name
    replica = stubs[0].url.removeprefix("http://")
    for name in ("decision_seconds", "ttft_seconds", "e2e_seconds"):
        buckets = [
            sample.value
            for sample in families[f"vidur_router_{name}"].samples
            if sample.name.endswith("_bucket") and sample.labels["replica"] == replica
        ]
        assert buckets == sorted(buckets) and buckets[-1] >= 3
    assert router.metric("output_tokens_total") >= 15
    own = router.metric("decisions_total") - router.metric("fallbacks_total")
    assert router.metric("shadow_decisions_total") == own


def test_changes_need_the_token(router: RouterUnderTest, stubs: list[Stub]) -> None:
    change = {"add": {"url": stubs[1].url}}
    for header in ("X: y", "Authorization: Bearer wrong", f"Authorization: Basic {TOKEN}", f"Authorization: {TOKEN}"):
        refused = post(router.port, "/replicas", change, header)
        assert refused.status == 401 and refused.header("WWW-Authenticate") == "Bearer"
    assert len(router.replicas()) == 1


def test_replicas_are_added_drained_and_removed(router: RouterUnderTest, stubs: list[Stub]) -> None:
    def change(action: str, replica: object) -> None:
        assert post(router.port, "/replicas", {action: replica}, BEARER).status == 200

    def served_by_six_requests() -> list[int]:
        before = [stub.state()["served"] for stub in stubs]
        assert [ask(router.port, completion()).status for _ in range(6)] == [200] * 6
        return [stub.state()["served"] - count for stub, count in zip(stubs, before, strict=True)]

    first = router.replicas()[0]["name"]
    change("add", {"url": stubs[1].url, "name": "second"})
    wait_until(lambda: router.replica(stubs[1])["running"] == 0)
    assert [each["name"] for each in router.replicas()] == [first, "second"]
    change("drain", first)
    assert router.replica(stubs[0])["state"] == "draining"
    assert served_by_six_requests() == [0, 6]
    change("resume", first)
    assert router.replica(stubs[0])["state"] == "closed"
    change("drain", "second")
    assert served_by_six_requests() == [6, 0]
    change("remove", "second")
    assert [each["name"] for each in router.replicas()] == [first]
    assert served_by_six_requests() == [6, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (None, "the body must be"),
        ({}, "the body must be"),
        ({"add": {}, "drain": "x"}, "the body must be"),
        ({"explode": "x"}, "the body must be"),
        ({"add": "http://127.0.0.1:1"}, "add: give"),
        ({"add": {}}, "url is missing"),
        ({"add": {"url": "ftp://x"}}, "expected http://host:port"),
        ({"add": {"url": "http://a..b:1", "name": "bad"}}, "'http://a..b:1' has no valid host:port"),
        ({"add": {"url": "http://a:0"}}, "port 0"),
        ({"add": {"url": "http://a:1/b c"}}, "characters that URLs cannot have"),
        ({"add": {"url": "http://a:1", "name": "\ud800"}}, "expected printable characters"),
        ({"add": {"url": "http://127.0.0.1:1", "nmae": "x"}}, "did you mean name"),
        ({"drain": 3}, "give the replica's name"),
        ({"remove": "nobody"}, "there is no replica 'nobody'"),
    ],
)
def test_bad_changes_are_refused(router: RouterUnderTest, change: object, says: str) -> None:
    refused = post(router.port, "/replicas", change, BEARER)
    assert refused.status == 400 and says in refused.json()["error"]["message"]
    assert ask(router.port, completion()).status == 200
    assert len(router.replicas()) == 1 and get(router.port, "/metrics").status == 200


def test_pushed_gauges_are_seen(router: RouterUnderTest, stubs: list[Stub]) -> None:
    port = int(router.wait_for(r"listening for pushed gauges on udp 127\.0\.0\.1:(\d+)"))
    name = router.replicas()[0]["name"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        numbers = count()

        def seen() -> bool:
            push = Push(name, 0, EngineGauges(7, 3, 0.5, 0), 1, next(numbers))
            sender.sendto(format_push(push), ("127.0.0.1", port))
            state = router.replicas()[0]
            return (state["running"], state["waiting"], state["kv_usage"]) == (7, 3, 0.5)

        wait_until(seen)
        sender.sendto(b"\xff garbage", ("127.0.0.1", port))
        sender.sendto(b"x" * 5000, ("127.0.0.1", port))
    wait_until(lambda: router.metric("pushes_malformed_total") == 2)


def test_dashboard(router: RouterUnderTest) -> None:
    page = get(router.port, "/dashboard")
    assert page.status == 200 and (page.header("Content-Type") or "").startswith("text/html")
    text = page.body.decode()
    assert "EventSource" in text and "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text
    assert ask(router.port, completion()).status == 200
    with Client(router.port) as client:
        client.send(message("GET", "/dashboard/events"))
        client.until(b"data: ")
        first = json.loads(client.until(b"\n\n"))
        client.until(b"data: ")
        second = json.loads(client.until(b"\n\n"))
    assert first["whole"] and not second["whole"] and second["at"] > first["at"]
    assert first["scheduler"] == "ppo" and first["shadow"] == "lor"
    decision = first["decisions"][-1]
    assert decision["replica"] == first["replicas"][0]["name"] and decision["prompt_tokens"] == 4
    if decision["fallback"] is None:
        assert sum(decision["probabilities"].values()) == pytest.approx(1.0, abs=0.01)


def test_access_log_has_a_line_for_each_request(stubs: list[Stub]) -> None:
    router = RouterUnderTest([stub.url for stub in stubs])
    with running(router):
        ask(router.port, completion(stream=True, max_tokens=6, prompt=[5] * 9))
        ask(router.port, message("GET", "/v1/models", headers=('X-Request-Id: "a\\b"',)))
        with Client(router.port) as client:
            client.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{[}")
            client.more()
        lines = router.end()
    stream, models, broken = lines
    assert stream["status"] == 200 and stream["stream"] and stream["scheduler"] == "round_robin"
    assert (
        stream["prompt_tokens"] == 9 and stream["output_tokens"] == 6 and stream["replica"] and stream["retries"] == 0
    )
    assert 0 < stream["ttft_s"] <= stream["e2e_s"] < 60 and stream["fallback"] is None
    assert models["request_id"] == '"a\\b"' and models["method"] == "GET" and models["scheduler"] is None
    assert broken["path"] == "/v1/completions"


def test_refusals_are_logged_and_counted(stubs: list[Stub]) -> None:
    """Those that no replica sees; pages that are served leave no line."""
    router = RouterUnderTest([stubs[0].url], "--max_connections", "3", "--header_timeout", "0.5")
    with running(router):
        get(router.port, "/metrics")
        assert get(router.port, "/collective_rpc?x=y", "X-Request-Id: lost").status == 404
        assert post(router.port, "/health", {}).status == 405
        assert post(router.port, "/replicas", {}).status == 401
        assert post(router.port, "/replicas", {}, BEARER).status == 400
        assert ask(router.port, b"\x00\x00").status == 400
        assert ask(router.port, message("PUT", "/v1/models", headers=("Expect: magic",))).status == 417
        assert ask(router.port, b"GET /v1/slow HTTP/1.1\r\nHost: x\r\n").status == 408
        statuses = [404, 405, 401, 400, 400, 417, 408]
        for status in statuses:
            assert router.metric("refused_total", code=str(status)) == statuses.count(status)
        with Client(router.port), Client(router.port), Client(router.port), Client(router.port) as fourth:
            assert fourth.read().status == 503
        lines = router.end()
    assert [line["status"] for line in lines] == [*statuses, 503]
    seen = [(line["method"], line["path"]) for line in lines]
    assert seen == [
        ("GET", "/collective_rpc"), ("POST", "/health"), ("POST", "/replicas"), ("POST", "/replicas"), (None, None),
        ("PUT", "/v1/models"), ("GET", "/v1/slow"), (None, None),
    ]  # fmt: skip
    assert all(line["client"] == "127.0.0.1" and line["replica"] is None and line["error"] for line in lines)
    assert lines[0]["request_id"] == "lost"


def test_failure_of_the_router_itself_is_recorded(stubs: list[Stub]) -> None:
    failing = (
        "import sys; from rl.vllm.decide import routing; from rl.vllm.process import router\n"
        "def place(*_): raise LookupError('a fault of the router')\n"
        "routing.Router.place = place; sys.exit(router.main())"
    )
    flags = ["--port", "0", "--scheduler", "lor", "--replica", stubs[0].url]
    router = Process([sys.executable, "-c", failing, *flags], "stderr", r"listening at http://127\.0\.0\.1:(\d+)")
    with running(router):
        answer = ask(router.port, completion())
        assert answer.status == 500 and answer.header("connection") == "close"
        assert b'vidur_router_requests_total{code="500",' in get(router.port, "/metrics").body
        router.signal(signal.SIGTERM)
        output, log = router.child.communicate(timeout=30)
        line = json.loads(output)
        assert line["status"] == 500 and line["error"] == "the router failed"
        assert b"a fault of the router" in log


def test_what_the_model_does_is_scheduled_and_nothing_else(stubs: list[Stub]) -> None:
    """Renders and counts would be in the books as work of the model."""
    paths = ["/v1/messages/count_tokens", "/v1/chat/completions/render", "/v1/responses/x/cancel", "/tokenize"]
    scheduled = ["/v1/messages", "/inference/v1/generate", "/v1/embeddings", "/rerank"]
    router = RouterUnderTest([stub.url for stub in stubs])
    with running(router):
        for path in paths + scheduled:
            post(router.port, path, {"token_ids": [1, 2, 3]})
        assert router.metric("decisions_total") == len(scheduled)
        lines = [line for line in router.end() if line["path"] in paths + scheduled]
    assert [line["scheduler"] for line in lines] == [None] * len(paths) + ["round_robin"] * len(scheduled)
    assert [line["prompt_tokens"] for line in lines] == [None] * len(paths) + [3] * len(scheduled)
    assert all(line["replica"] for line in lines)


def test_sighup_opens_the_access_log_again(tmp_path: Path) -> None:
    stub = Stub("slow", token_seconds=0.02)
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "access.log"
    router = RouterUnderTest([stub.url], "--access_log", str(log))
    with running(stub, router), Client(router.port) as client:
        client.send(completion(stream=True, max_tokens=50))
        client.until(b"\r\n\r\n")
        get(router.port, "/v1/models")
        wait_until(lambda: log.read_text().count("\n") == 1)
        log.rename(folder / "access.log.1")
        router.signal(signal.SIGHUP)
        wait_until(log.exists)
        body, whole = client._chunks()
        assert whole and body.count(b"data: {") == 50
        wait_until(lambda: log.read_text().count("\n") == 1)
        # Where it cannot be opened, no line is lost.
        moved = folder.rename(tmp_path / "moved")
        router.signal(signal.SIGHUP)
        router.wait_for(r"(keeping the file that is open)")
        get(router.port, "/v1/models")
        router.end()
        paths = [
            [json.loads(line)["path"] for line in file.read_text().splitlines()] for file in sorted(moved.iterdir())
        ]
        assert paths == [["/v1/completions", "/v1/models"], ["/v1/models"]]


def test_sighup_without_a_file_changes_nothing(stubs: list[Stub]) -> None:
    router = RouterUnderTest([stubs[0].url])
    with running(router):
        router.signal(signal.SIGHUP)
        router.wait_for(r"(nothing to reopen)")
        assert get(router.port, "/v1/models").status == 200
        assert len(router.end()) == 1


def test_log_that_no_one_reads_holds_up_nothing(stubs: list[Stub]) -> None:
    """Its pipe holds 64 KiB, which is some two hundred lines."""
    router = RouterUnderTest([stubs[0].url])
    with running(router), Client(router.port) as client:
        for _ in range(600):
            client.send(message("GET", "/v1/models"))
            assert client.read().status == 200
        assert len(router.end()) == 600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_end_before_the_process_does(number: int) -> None:
    stub = Stub("slow", token_seconds=0.02)
    router = RouterUnderTest([stub.url])
    with running(stub, router), Client(router.port) as client, Client(router.port) as idle, Client(router.port) as page:
        page.send(message("GET", "/dashboard/events"))
        idle.send(message("GET", "/health"))
        assert idle.read().status == 200
        client.send(completion(stream=True, max_tokens=50))
        client.until(b"\r\n\r\n")
        router.signal(number)
        assert not idle.more()
        with pytest.raises(ConnectionRefusedError):
            wait_until(lambda: Client(router.port).socket.close())
        body, whole = client._chunks()
        assert whole and body.count(b"data: {") == 50 and body.endswith(b"data: [DONE]\n\n")
        assert not client.more()
        assert router.child.wait(timeout=30) == 0


@contextmanager
def streaming(grace: float) -> Iterator[tuple[Stub, RouterUnderTest, Client]]:
    """A stub and a router amid an answer that takes longer than any test."""
    stub = Stub("slow", token_seconds=0.05)
    router = RouterUnderTest([stub.url], "--grace", str(grace))
    with running(stub, router), Client(router.port) as client:
        client.send(completion(stream=True, max_tokens=100_000))
        client.until(b"\r\n\r\n")
        yield stub, router, client


def test_grace_has_an_end() -> None:
    with streaming(grace=0.3) as (stub, router, client):
        router.signal(signal.SIGTERM)
        assert router.child.wait(timeout=30) == 0
        assert not client._chunks()[1]
        wait_until(lambda: stub.state()["aborted"] == 1)
        output, _ = router.child.communicate()
        line = json.loads(output)
        assert line["status"] == 200 and line["error"] == "cut: the router stopped"


def test_second_signal_cuts_what_is_under_way() -> None:
    with streaming(grace=1000) as (stub, router, client):
        router.signal(signal.SIGTERM)
        router.wait_for(r"(stopping)")
        router.signal(signal.SIGINT)
        assert router.child.wait(timeout=30) == 0
        assert not client._chunks()[1]
        wait_until(lambda: stub.state()["aborted"] == 1)


def test_without_a_token_changes_are_off(stubs: list[Stub]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "VIDUR_ROUTER_ADMIN_TOKEN"}
    command = [sys.executable, "-m", "rl.vllm.router", "--port", "0", "--replica", stubs[0].url, "--scheduler", "lor"]
    child = subprocess.Popen([*command, "--access_log", ""], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        assert child.stderr is not None
        port = int(child.stderr.readline().split(b":")[-1].split(b" ")[0])
        refused = post(port, "/replicas", {"drain": "x"}, BEARER)
        assert refused.status == 403
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "no replicas: give --replica"),
        (["--replica", "127.0.0.1:1"], "expected"),
        (["--replica", "http://a..b:1"], "'http://a..b:1' has no valid host:port"),
        (["--replica", "http://127.0.0.1:1", "--prot", "1"], "did you mean --port"),
        (["--replica", "http://127.0.0.1:1", "--port", "70000"], "--port"),
        (["--replica", "http://127.0.0.1:1", "--scheduler", "lro"], "did you mean lor"),
        (
            ["--replica", "http://127.0.0.1:1", "--access_log", "/nowhere/log"],
            "--access_log /nowhere/log: No such file",
        ),
        (
            ["--replica", "http://127.0.0.1:1", "--admin_token_file", "/nowhere/token"],
            "--admin_token_file /nowhere/token",
        ),
        (["--replica", "http://127.0.0.1:1", "--max_body_bytes", "-1"], "--max_body_bytes"),
    ],
)
def test_bad_flags_are_refused(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("vidur-router: error: ") and says in error and error.count("\n") == 1


def test_weak_tokens_and_taken_ports_are_refused(
    tmp_path: Path, stubs: list[Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("short\n")
    flags = ["--replica", stubs[0].url, "--scheduler", "lor", "--access_log", ""]
    assert main([*flags, "--admin_token_file", str(token), "--port", "0"]) == 2
    assert "at least 16" in capsys.readouterr().err
    assert main([*flags, "--port", str(stubs[0].port)]) == 2
    assert f"--port {stubs[0].port}" in capsys.readouterr().err
