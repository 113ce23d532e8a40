"""Count the tokens of a response by scanning its bytes as they pass."""

from __future__ import annotations

import re

EVENT = b"\ndata:"
DONE = re.compile(rb"\ndata: ?\[DONE\]")
USAGE = re.compile(rb'"usage"\s*:\s*\{((?:[^{}]+|\{[^{}]*\})*)')
PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')
KEPT_LINE = 16  # longer than EVENT and DONE
KEPT_BYTES = 4096  # the usage is near the end of a response


class EventCounter:
    """Count the data events of a stream, without the closing [DONE].

    A line that begins with `data:` is always an event, as JSON escapes the newlines of its content.
    """

    def __init__(self) -> None:
        self.events = 0
        self._tail = b"\n"
        self._in_tail = 0

    def feed(self, data: bytes) -> int:
        """Return the events that begin in `data`, the next bytes; -1 if an earlier one turns out to be [DONE]."""
        text = self._tail + data
        count = _events(text) - self._in_tail
        self._tail = text[-KEPT_LINE:]
        self._in_tail = _events(self._tail)
        self.events += count
        return count


def _events(text: bytes) -> int:
    return text.count(EVENT) - (len(DONE.findall(text)) if b"[DONE]" in text else 0)


class ResponseTail:
    """Keep the end of a response, which has its usage."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> None:
        self._tail = data[-KEPT_BYTES:] if len(data) >= KEPT_BYTES else (self._tail + data)[-KEPT_BYTES:]

    def usage(self) -> tuple[int | None, int | None]:
        """Return the prompt and the output tokens of the last usage; None if it has none."""
        usages = USAGE.findall(self._tail)
        if not usages:
            return None, None
        prompt, output = PROMPT.search(usages[-1]), OUTPUT.search(usages[-1])
        return (int(prompt[1]) if prompt else None, int(output[1]) if output else None)
