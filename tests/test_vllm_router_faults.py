"""Replicas that fail: real processes, stopped and killed by signals. No request is lost, no answer silently cut."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest
from router_processes import (
    Client,
    Response,
    RouterUnderTest,
    Stub,
    ask,
    completion,
    get,
    running,
    wait_until,
)


def answers_at_once(port: int, requests: list[bytes]) -> tuple[list[threading.Thread], list[Response]]:
    """Clients that have each sent a request, and the list in which their answers gather."""
    answers: list[Response] = []
    clients = [Client(port) for _ in requests]
    for client, data in zip(clients, requests, strict=True):
        client.send(data)

    def read(client: Client) -> None:
        with client:
            answers.append(client.read())

    threads = [threading.Thread(target=read, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    return threads, answers


def test_replica_that_refuses_is_ejected_and_let_in_again() -> None:
    well, gone = Stub("well"), Stub("gone")
    router = RouterUnderTest([well.url, gone.url], "--health_interval", "0.5")
    with running(well, gone, router):
        gone.signal(signal.SIGKILL)
        gone.child.wait()
        assert [ask(router.port, completion()).status for _ in range(20)] == [200] * 20
        wait_until(lambda: router.replica(gone)["state"] == "open")
        assert get(router.port, "/ready").status == 200
        back = Stub("back", port=gone.port)
        with running(back):
            wait_until(lambda: router.replica(back)["state"] != "open")
            assert [ask(router.port, completion()).status for _ in range(4)] == [200] * 4
            assert back.state()["served"] == 2
            assert router.replica(back)["state"] == "closed"
            log = router.end()
    assert all(line["status"] == 200 for line in log if line["path"] == "/v1/completions")
    assert sum(line["retries"] for line in log) >= 1


def test_replica_that_hangs_gives_its_unanswered_requests_back() -> None:
    """SIGSTOP: connections are still accepted by the kernel, and nothing is ever answered."""
    well, hung = Stub("well"), Stub("hung")
    router = RouterUnderTest([well.url, hung.url], "--health_timeout", "0.5", "--health_failures", "2")
    with running(well, hung, router):
        hung.signal(signal.SIGSTOP)
        threads, answers = answers_at_once(router.port, [completion(stream=i % 2 == 0) for i in range(12)])
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 12
        assert all(answer.whole for answer in answers)
        assert router.replica(hung)["state"] == "open"
        assert router.metric("retries_total", reason="ejected") + router.metric("retries_total", reason="timeout") >= 6
        hung.signal(signal.SIGCONT)
        wait_until(lambda: router.replica(hung)["state"] != "open")


def test_replica_that_does_not_take_connections() -> None:
    """A listener whose queue is full: the kernel lets each further connection wait."""
    well = Stub("well")
    with running(well), socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        host, port = full.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        router = RouterUnderTest([well.url, f"http://{host}:{port}"], "--connect_timeout", "0.3", ready=False)
        with running(router):
            assert [ask(router.port, completion()).status for _ in range(4)] == [200] * 4
            wait_until(lambda: router.replicas()[1]["state"] == "open")
            assert router.replicas()[1]["reason"] == "connect_timeout"
            assert router.replicas()[0]["state"] == "closed"


def test_first_byte_timeout_tries_elsewhere() -> None:
    well, hung = Stub("well"), Stub("hung")
    hung.fault(hang=True)
    router = RouterUnderTest(
        [well.url, hung.url], "--first_byte_timeout", "0.3", "--health_interval", "60", ready=False
    )
    with running(well, hung, router):
        assert [ask(router.port, completion()).status for _ in range(4)] == [200] * 4
        assert router.metric("errors_total", reason="timeout") >= 1


def test_slow_answers_eject_no_one_and_leave_other_requests_alone() -> None:
    """Whole answers take 4 s, of which the router waits 2 on each replica; others are on their way at that moment."""
    pair = [Stub("a", token_seconds=0.1), Stub("b", token_seconds=0.1)]
    router = RouterUnderTest([stub.url for stub in pair], "--first_byte_timeout", "2", scheduler="lor")
    with running(*pair, router):
        slow, timed_out = answers_at_once(router.port, [completion(max_tokens=40) for _ in range(6)])
        time.sleep(1.0)
        quick, answers = answers_at_once(router.port, [completion(max_tokens=15) for _ in range(4)])
        for thread in slow + quick:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 4
        assert [answer.status for answer in timed_out] == [504] * 6
        assert [each["ejected"] for each in router.replicas()] == [0, 0]


def test_what_a_healthy_replica_is_at_goes_on_when_others_time_out_there() -> None:
    fast, slow = Stub("fast"), Stub("slow", token_seconds=0.1)
    router = RouterUnderTest([fast.url, slow.url], "--first_byte_timeout", "2")
    with running(fast, slow, router):
        late, tried_elsewhere = answers_at_once(router.port, [completion(max_tokens=40) for _ in range(6)])
        time.sleep(1.0)
        in_time, answers = answers_at_once(router.port, [completion(max_tokens=15) for _ in range(2)])
        for thread in late + in_time:
            thread.join()
        assert [answer.status for answer in tried_elsewhere + answers] == [200] * 8
        assert router.replica(slow)["ejected"] == 1 and router.replica(fast)["ejected"] == 0
        assert router.metric("errors_total", reason="timeout") == 3
        assert router.metric("errors_total", reason="ejected") == 0
        assert slow.state()["served"] == 1


def test_all_hang_until_the_deadline() -> None:
    hung = Stub("hung")
    hung.fault(hang=True)
    router = RouterUnderTest([hung.url], "--answer_timeout", "0.5", "--health_interval", "60", ready=False)
    with running(hung, router):
        started = time.monotonic()
        assert ask(router.port, completion()).status == 504
        assert time.monotonic() - started < 5.0


def test_a_request_without_another_replica_is_not_tried_again() -> None:
    hung = Stub("hung")
    hung.fault(hang=True)
    router = RouterUnderTest([hung.url], "--first_byte_timeout", "0.3", "--health_interval", "60", ready=False)
    with running(hung, router):
        assert ask(router.port, completion()).status == 504
        assert get(router.port, "/v1/models").status == 504
        assert router.metric("retries_total") == 0
        scheduled, plain = (line for line in router.end() if line["path"].startswith("/v1/"))
    name = hung.url.removeprefix("http://")
    assert [(line["retries"], line["replica"]) for line in (scheduled, plain)] == [(0, name), (0, name)]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_errors_are_tried_elsewhere(status: int, pair: tuple[Stub, Stub, RouterUnderTest]) -> None:
    _, bad, router = pair
    bad.fault(status=status)
    assert [ask(router.port, completion()).status for _ in range(4)] == [200] * 4
    assert router.metric("errors_total", reason=f"status_{status}") >= 1
    bad.fault(status=0)
    wait_until(lambda: router.replica(bad)["state"] != "open")


@pytest.mark.parametrize("status", [400, 422, 429, 501])
def test_other_errors_are_the_clients_own(status: int, pair: tuple[Stub, Stub, RouterUnderTest]) -> None:
    well, bad, router = pair
    failed = router.replica(bad)["failed"]
    for stub in (well, bad):
        stub.fault(status=status)
    answer = ask(router.port, completion())
    for stub in (well, bad):
        stub.fault(status=0)
    assert answer.status == status and b"told to fail" in answer.body
    assert router.replica(bad)["failed"] == failed


def test_request_that_fails_everywhere_ejects_no_one(pair: tuple[Stub, Stub, RouterUnderTest]) -> None:
    """A client's poison must not take the replicas from everyone else; it gets the replica's own answer."""
    well, bad, router = pair
    for stub in (well, bad):
        stub.fault(status=500)
    answers = [ask(router.port, completion()) for _ in range(8)]
    for stub in (well, bad):
        stub.fault(status=0)
    assert all(answer.status == 500 and b"told to fail" in answer.body for answer in answers)
    assert all(each["state"] != "open" for each in router.replicas())


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Stub, Stub, RouterUnderTest]]:
    well, bad = Stub("well"), Stub("bad")
    router = RouterUnderTest([well.url, bad.url])
    with running(well, bad, router):
        yield well, bad, router


def test_stream_that_breaks_ends_with_an_error() -> None:
    """By SIGKILL in mid-stream: the client is told, the body has no proper end, and the OpenAI client raises."""
    first, second = Stub("first", token_seconds=0.02), Stub("second", token_seconds=0.02)
    router = RouterUnderTest([first.url, second.url])
    with running(first, second, router):
        first.fault(die_after=3)
        second.fault(die_after=3)
        answer = ask(router.port, completion(stream=True, max_tokens=8))
        assert answer.status == 200 and not answer.whole
        events = [line.removeprefix(b"data: ") for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
        assert len(events) == 4 and b"[DONE]" not in answer.body
        assert json.loads(events[-1])["error"]["code"] == 502
        with openai.OpenAI(base_url=f"http://127.0.0.1:{router.port}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(model="stub", prompt="x", max_tokens=8, stream=True)
            with pytest.raises(openai.APIError):
                list(stream)
        assert router.metric("broken_answers_total") == 2
        wait_until(lambda: all(each["state"] == "open" for each in router.replicas()))
        started = time.monotonic()
        refused = ask(router.port, completion())
        assert refused.status == 503 and int(refused.header("Retry-After") or 0) >= 1
        assert time.monotonic() - started < 2.0
        assert get(router.port, "/ready").status == 503 and get(router.port, "/health").status == 200
        log = router.end()
    assert [line["status"] for line in log if line["path"] == "/v1/completions"] == [200, 200, 503]
    assert "broken off" in log[0]["error"]


def test_answer_of_known_length_that_breaks_is_cut_short() -> None:
    """The replica closes in the middle of nothing but a stream: no error can be put in, so the connection is cut."""
    stub = Stub("stub")
    router = RouterUnderTest([stub.url])
    with running(stub, router):
        stub.fault(cut_after=0)
        answer = ask(router.port, completion(stream=True))
        assert answer.status in (502, 503)  # nothing was sent yet, so it is an answer of the router's
        stub.fault(cut_after=2)
        assert not ask(router.port, completion(stream=True)).whole


def test_replica_killed_under_load_loses_no_unanswered_request() -> None:
    stubs = [Stub(f"s{i}", first_seconds=0.1) for i in range(3)]
    router = RouterUnderTest([stub.url for stub in stubs])
    with running(*stubs, router):
        threads, answers = answers_at_once(router.port, [completion(max_tokens=8) for _ in range(90)])
        wait_until(lambda: stubs[0].state()["active"] > 0 or len(answers) > 0)
        stubs[0].signal(signal.SIGKILL)
        more, later = answers_at_once(router.port, [completion(max_tokens=8) for _ in range(90)])
        for thread in threads + more:
            thread.join()
        assert [answer.status for answer in answers + later] == [200] * 180
        log = router.end()
    assert len([line for line in log if line["path"] == "/v1/completions"]) == 180


@pytest.mark.parametrize("text", ["", "vllm:num_requests_running NaN\n", "\udcff\udcfe", "x" * 100_000])
def test_malformed_metrics_leave_requests_served(text: str, pair: tuple[Stub, Stub, RouterUnderTest]) -> None:
    _, bad, router = pair
    bad.fault(metrics=text or "\n")
    wait_until(lambda: router.replica(bad)["gauge_error"] is not None)
    age = router.replica(bad)["gauge_age"]
    assert [ask(router.port, completion()).status for _ in range(4)] == [200] * 4
    wait_until(lambda: router.replica(bad)["gauge_age"] > age)
    bad.fault(metrics="")
    wait_until(lambda: router.replica(bad)["gauge_error"] is None and router.replica(bad)["gauge_age"] < 5)


def test_probes_go_on_after_an_error_that_no_one_foresaw(tmp_path: Path) -> None:
    """Here a scheduler that cannot be made anew for the KV-cache that the replica reports."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from vidur.scheduler.routers import GlobalScheduler\n"
        "from vidur.observation import KV_TOKENS\n"
        "class Mine(GlobalScheduler):\n"
        "    def __init__(self, options, context):\n"
        "        assert context.hardware[0, KV_TOKENS] != 65536, 'too small'\n"
        "    def schedule(self, observation):\n        return 0\n"
    )
    stub = Stub("stub")
    router = RouterUnderTest([stub.url], "--custom_global_scheduler_config_options", "{}", scheduler=f"{file}:Mine")
    with running(stub, router):
        router.wait_for(r"(?s)(Traceback.*AssertionError: too small)")
        time.sleep(1.0)
        assert router.replica(stub)["gauge_age"] < 0.9
        assert ask(router.port, completion()).status == 200


def test_unhealthy_replica_is_ejected(pair: tuple[Stub, Stub, RouterUnderTest]) -> None:
    _, bad, router = pair
    bad.fault(unhealthy=True)
    wait_until(lambda: router.replica(bad)["state"] == "open")
    served = bad.state()["served"]
    assert [ask(router.port, completion()).status for _ in range(4)] == [200] * 4
    assert bad.state()["served"] == served
    bad.fault(unhealthy=False)
    wait_until(lambda: router.replica(bad)["state"] != "open")


def test_redirects_are_passed_on_and_not_followed(pair: tuple[Stub, Stub, RouterUnderTest]) -> None:
    well, bad, router = pair
    target = Stub("target")
    with running(target):
        for stub in (well, bad):
            stub.fault(redirect=f"{target.url}/v1/completions")
        answer = ask(router.port, completion())
        for stub in (well, bad):
            stub.fault(redirect="")
        assert answer.status == 302 and answer.header("Location") == f"{target.url}/v1/completions"
        assert target.state()["served"] == 0


def test_stale_gauges_fall_back() -> None:
    stub = Stub("stub")
    router = RouterUnderTest([stub.url], "--gauge_age_limit", "0.5", scheduler="ppo")
    with running(stub, router):
        stub.fault(metrics="nothing")
        wait_until(lambda: router.replica(stub)["gauge_age"] > 0.6)
        assert ask(router.port, completion()).status == 200
        assert router.metric("fallbacks_total", reason="stale_gauges") == 1
        assert router.end()[-1]["fallback"] == "stale_gauges"
