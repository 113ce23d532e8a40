"""Parts of the router by themselves: token counts, the breaker, the queue, headers."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.vllm.http.sse import EventCounter, ResponseTail
from rl.vllm.http.wire import end_to_end
from rl.vllm.process.admission import Admission, Overload
from rl.vllm.process.breaker import Breaker
from rl.vllm.process.config import AdmissionConfig, BreakerConfig, ProxyConfig
from rl.vllm.process.metrics import Histogram
from rl.vllm.process.proxy import RetryBudget
from vidur.errors import InputError

CONTENTS = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from(["\ndata: x", "data: [DONE]", "[DONE]", '"usage"']))
)


@given(CONTENTS, st.booleans(), st.lists(st.integers(0, 2000), max_size=30), st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_events_are_counted_however_the_stream_is_cut(
    contents: list[str], done: bool, cuts: list[int], end: str
) -> None:
    texts = [f"data: {json.dumps({'choices': [{'text': text}]}, ensure_ascii=False)}{end}" for text in contents]
    stream = ("".join(texts) + (f"data: [DONE]{end}" if done else "")).encode()
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    counter = EventCounter()
    counts = [counter.feed(stream[start:stop]) for start, stop in itertools.pairwise(edges)]
    assert counter.events == sum(counts) == len(contents)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.text(max_size=30), st.integers(1, 400))
def test_usage_is_found_however_the_answer_is_cut(prompt: int, output: int, text: str, size: int) -> None:
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output,
             "prompt_tokens_details": None}  # fmt: skip
    fake = '"usage": {"prompt_tokens": 1, "completion_tokens": 2}'
    body = json.dumps({"choices": [{"text": text + fake}], "usage": usage, "kv_transfer_params": None}).encode()
    tail = ResponseTail()
    for start in range(0, len(body), size):
        tail.feed(body[start : start + size])
    assert tail.usage() == (prompt, output)


def test_usage_of_other_apis_and_of_none() -> None:
    for body, expected in (
        (b'{"usage":{"prompt_tokens":7,"total_tokens":7}}', (7, None)),
        (b'{"usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":0},"output_tokens":4}}', (3, 4)),
        (b'{"usage":null}', (None, None)),
        (b"", (None, None)),
    ):
        tail = ResponseTail()
        tail.feed(body)
        assert tail.usage() == expected


def test_breaker_opens_waits_and_closes() -> None:
    breaker = Breaker(BreakerConfig(breaker_failures=3, breaker_seconds=1.0, breaker_most_seconds=3.0))
    assert not breaker.request_failed("a", 0.0) and not breaker.request_failed("a", 0.0)
    breaker.request_succeeded()
    assert [breaker.request_failed("a", 1.0) for _ in range(3)] == [False, False, True]
    assert not breaker.admits and not breaker.probe_succeeded(1.9) and breaker.probe_succeeded(2.0)
    assert breaker.state == "half_open" and breaker.admits
    # On trial, one failure is enough, and the wait doubles up to its most.
    waits = []
    now = 2.0
    for _ in range(3):
        assert breaker.request_failed("b", now)
        waits.append(breaker.open_until - now)
        now = breaker.open_until
        assert breaker.probe_succeeded(now)
    assert waits == [2.0, 3.0, 3.0]
    breaker.request_succeeded()
    assert breaker.state == "closed" and breaker.reason == ""
    assert [breaker.request_failed("a", now) for _ in range(3)] == [False, False, True]
    assert breaker.open_until == now + 1.0


def test_probes_open_the_breaker() -> None:
    breaker = Breaker(BreakerConfig(health_failures=2))
    assert not breaker.probe_failed("timeout", 0.0) and breaker.probe_failed("timeout", 1.0)
    assert Breaker(BreakerConfig(health_failures=2)).probe_failed("refused", 0.0, first=True)


def test_retry_budget_is_a_share_of_requests() -> None:
    budget = RetryBudget(reserve=2, ratio=0.25)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.request()
    assert [budget.take() for _ in range(2)] == [True, False]


def test_queue_is_first_come_first_served_and_forgets_who_left() -> None:
    async def run() -> list[int]:
        admission = Admission(AdmissionConfig(max_in_flight=1, max_queue=3, queue_timeout=5.0))
        order: list[int] = []

        async def work(number: int) -> None:
            await admission.enter()
            order.append(number)
            await asyncio.sleep(0)
            admission.leave()

        tasks = [asyncio.create_task(work(number)) for number in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overload):
            await admission.enter()
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert admission.in_flight == 0 and admission.queued == 0
        await admission.enter()
        assert admission.in_flight == 1
        return order

    assert asyncio.run(run()) == [0, 1, 3]


def test_hop_by_hop_headers() -> None:
    headers = [(b"A", b"1"), (b"CONNECTION", b"close, B"), (b"b", b"2"), (b"Connection", b"c"), (b"C", b"3"),
               (b"a", b"4"), (b"Transfer-Encoding", b"chunked"), (b"Host", b"x")]  # fmt: skip
    assert end_to_end(headers, frozenset((b"host",))) == [(b"A", b"1"), (b"a", b"4")]


def test_every_inference_path_of_vllm_passes() -> None:
    config = ProxyConfig()
    for path in (
        "/inference/v1/generate",
        "/generative_scoring",
        "/v2/embed",
        "/cohere/v2/chat",
        "/v1/audio/translations",
    ):
        assert config.passes(path)
    assert not any(config.passes(path) for path in ("/inference/v1/abort_requests", "/collective_rpc", "/sleep"))
    with pytest.raises(InputError, match="--pass_paths: 'v1/' matches no path: begin it with /"):
        ProxyConfig(pass_paths=("/tokenize", "v1/"))


def test_paths_that_pass() -> None:
    config = ProxyConfig(pass_paths=("/v1/", "/tokenize"))
    assert config.passes("/v1/models") and config.passes("/tokenize")
    assert not any(config.passes(path) for path in ("/v1", "/tokenize/", "/v2/models", "/", "/tokenizer"))
    assert not any(config.passes(f"/v1/{way}/health") for way in ("..", ".", "%2e%2E", ".%2e", "x/%2E.", "..%2F.."))
    assert config.passes("/v1/files/a..b/.hidden%20c")


@given(st.lists(st.floats(0, 100)))
def test_histogram_counts_up_to_each_bound(values: list[float]) -> None:
    histogram = Histogram((0.5, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    buckets, total = histogram.read()
    expected = [sum(value <= bound for value in values) for bound in (0.5, 1.0, 10.0, float("inf"))]
    assert [count for _, count in buckets] == expected
    assert total == pytest.approx(sum(values))
