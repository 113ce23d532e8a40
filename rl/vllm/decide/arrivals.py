"""Read from a request's body and headers what routing needs."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from rl.vllm.decide.prompt_length import TOKENS_OF_A_BYTE, PromptCount, PromptLength
from rl.vllm.decide.routing import Arrival, session_number
from rl.vllm.http.wire import HttpRequest

# The most JSON values of a body that is parsed: they stop the router for 10 ms, lists and objects somewhat longer.
MOST_VALUES = 100_000
CHUNK = 2**16
# Above so many commas per byte a body has token ids, which take at most seven digits, a comma and a space each.
COMMAS_OF_NUMBERS = 0.1
STREAMS = re.compile(rb'"stream"\s*:\s*true')


class ReadArrival(NamedTuple):
    """A request as read. streams: whether it asks for a stream. prompt: None if the body is invalid or too long."""

    arrival: Arrival
    streams: bool
    prompt: PromptCount | None


class ArrivalReader:
    """Read requests of the OpenAI API."""

    def __init__(self, prompts: PromptLength, session_header: str) -> None:
        self._prompts = prompts
        self._session_header = session_header.lower().encode()

    def read(self, request: HttpRequest) -> ReadArrival:
        """Read a request. An invalid body counts as one prompt token; a long one is estimated by its size."""
        name = request.header(self._session_header)
        session = -1 if name is None else session_number(name.decode("latin-1"))
        if _is_long(request.body):
            arrival = Arrival(_tokens_of_long(request.body), request.received_at, session)
            return ReadArrival(arrival, _asks_for_stream(request.body), None)
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return ReadArrival(Arrival(1, request.received_at, session), False, None)
        prompt = self._prompts.count(request.path.decode("latin-1"), body)
        priority = body.get("priority")
        arrival = Arrival(
            prompt.tokens,
            request.received_at,
            session,
            priority if type(priority) is int and abs(priority) < 2**31 else 0,
        )
        return ReadArrival(arrival, body.get("stream") is True, prompt)

    def learn(self, prompt: PromptCount | None, prompt_tokens: int) -> None:
        """Learn from a replica's count of the prompt."""
        if prompt is not None:
            self._prompts.learn(prompt, prompt_tokens)


def _is_long(body: bytes) -> bool:
    """Return whether the body may have more than MOST_VALUES values."""
    if len(body) <= MOST_VALUES:
        return False
    values = 0
    for begin in range(0, len(body), CHUNK):
        values += sum(body.count(sign, begin, begin + CHUNK) for sign in (b",", b"[", b"{"))
        if values > MOST_VALUES:
            return True
    return False


def _asks_for_stream(body: bytes) -> bool:
    # Inside a JSON text the quotes would be escaped.
    return any(body[match.start() - 1 : match.start()] != b"\\" for match in STREAMS.finditer(body))


def _tokens_of_long(body: bytes) -> int:
    """Estimate the tokens from the body's beginning, which has either token ids or text."""
    commas = body.count(b",", 0, CHUNK) / min(len(body), CHUNK)
    return round(len(body) * (commas if commas > COMMAS_OF_NUMBERS else TOKENS_OF_A_BYTE))
