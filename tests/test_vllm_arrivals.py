"""What the router reads of a request: its prompt, whether it streams; and that none can hold the router up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rl.vllm.decide.arrivals import MOST_VALUES, ArrivalReader, ReadArrival
from rl.vllm.decide.prompt_length import PromptLength
from rl.vllm.http.wire import HttpRequest


def read(body: bytes) -> ReadArrival:
    request = HttpRequest(b"POST", b"/v1/completions", b"/v1/completions", [], {}, body, 7.0, "127.0.0.1")
    return ArrivalReader(PromptLength(), "x-session-id").read(request)


def test_a_picture_does_not_make_a_body_long() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}
    message = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}
    found = read(json.dumps({"messages": [message], "stream": True}).encode())
    assert found.prompt is not None and found.arrival.prompt_tokens < 50 and found.streams


@pytest.mark.parametrize("vocabulary", [10, 1000, 150_000])
def test_a_million_token_ids_are_estimated_unread(vocabulary: int) -> None:
    body = {"prompt": [7919 * number % vocabulary for number in range(1_000_000)], "stream": True}
    found = read(json.dumps(body).encode())
    assert found.prompt is None and found.streams and found.arrival.arrived_at == 7.0
    assert found.arrival.prompt_tokens == pytest.approx(1_000_000, rel=0.15)


def test_a_long_text_is_estimated_unread() -> None:
    """It quotes what would ask for a stream, and asks for none."""
    text = 'She said, "stream": true, and then she left. ' * 50_000
    found = read(json.dumps({"prompt": text}).encode())
    assert found.prompt is None and not found.streams
    assert found.arrival.prompt_tokens == pytest.approx(len(text) / 4, rel=0.15)


@pytest.mark.parametrize("value", ["[]", "{}", "[[]]", '{"a":[]}'])
def test_a_body_of_empty_values_is_not_read(value: str) -> None:
    """Lists and objects by the million would take the router seconds, and a gigabyte."""
    assert read(b'{"prompt":[' + f"{value},".encode() * MOST_VALUES + b"1]}").prompt is None


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 90_000, b"\xff", b'{"prompt":'])
def test_what_cannot_be_read_is_a_token(body: bytes) -> None:
    found = read(body)
    assert found.prompt is None and found.arrival.prompt_tokens == 1


@pytest.mark.parametrize("priority", [0, -3, 5])
def test_priority(priority: Any) -> None:
    assert read(json.dumps({"prompt": "a", "priority": priority}).encode()).arrival.priority == priority
