"""What routing needs to know of a request, read from its body and headers."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from rl.vllm.decide.prompt_length import TOKENS_OF_A_BYTE, PromptCount, PromptLength
from rl.vllm.decide.routing import Arrival, session_number
from rl.vllm.http.wire import HttpRequest

# JSON values that a body may have to be read, which holds the router up for 10 ms, or where they are lists and objects
# for some more.
MOST_VALUES = 100_000
CHUNK = 2**16
# Of a byte, at least: the number of a token has seven digits at most, with a comma and a space.
COMMAS_OF_NUMBERS = 0.1
STREAMS = re.compile(rb'"stream"\s*:\s*true')


class ReadArrival(NamedTuple):
    """streams: whether the answer is asked for as a stream. prompt: how the prompt tokens were found; None for a body
    that was not read, as the replica will refuse it or as it is too long."""

    arrival: Arrival
    streams: bool
    prompt: PromptCount | None


class ArrivalReader:
    """Reads requests whose bodies are those of the OpenAI API."""

    def __init__(self, prompts: PromptLength, session_header: str) -> None:
        self._prompts = prompts
        self._session_header = session_header.lower().encode()

    def read(self, request: HttpRequest) -> ReadArrival:
        """Never fails: what cannot be read counts as a prompt of one token, and what would take too long to be read is
        judged by its size."""
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
        """A replica has counted the prompt."""
        if prompt is not None:
            self._prompts.learn(prompt, prompt_tokens)


def _is_long(body: bytes) -> bool:
    """Whether there are more than MOST_VALUES values, or as many commas in texts, in the body."""
    if len(body) <= MOST_VALUES:
        return False
    values = 0
    for begin in range(0, len(body), CHUNK):
        values += sum(body.count(sign, begin, begin + CHUNK) for sign in (b",", b"[", b"{"))
        if values > MOST_VALUES:
            return True
    return False


def _asks_for_stream(body: bytes) -> bool:
    # Within a JSON text the quotes would be escaped.
    return any(body[found.start() - 1 : found.start()] != b"\\" for found in STREAMS.finditer(body))


def _tokens_of_long(body: bytes) -> int:
    """Estimated from how it begins: each comma ends a token's number, or else it is text."""
    commas = body.count(b",", 0, CHUNK) / min(len(body), CHUNK)
    return round(len(body) * (commas if commas > COMMAS_OF_NUMBERS else TOKENS_OF_A_BYTE))
