"""What routing needs to know of a request, read from its body and headers."""

from __future__ import annotations

import json
from typing import NamedTuple

from rl.vllm.prompt_length import PromptCount, PromptLength
from rl.vllm.routing import Arrival, session_number
from rl.vllm.wire import Request


class ReadArrival(NamedTuple):
    """streams: whether the answer is asked for as a stream. prompt: how the prompt tokens were found; None for a body
    that cannot be read, which the replica will refuse."""

    arrival: Arrival
    streams: bool
    prompt: PromptCount | None


class ArrivalReader:
    """Reads requests whose bodies are those of the OpenAI API."""

    def __init__(self, prompts: PromptLength, session_header: str) -> None:
        self._prompts = prompts
        self._session_header = session_header.lower().encode()

    def read(self, request: Request) -> ReadArrival:
        """Never fails: what cannot be read counts as a prompt of one token."""
        name = request.header(self._session_header)
        session = -1 if name is None else session_number(name.decode("latin-1"))
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

    def learn(self, prompt: PromptCount | None, prompt_tokens: int | None) -> None:
        """A replica has counted the prompt."""
        if prompt is not None and prompt_tokens is not None:
            self._prompts.learn(prompt, prompt_tokens)
