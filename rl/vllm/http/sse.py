"""What a response tells of its tokens, found by scanning its bytes as they pass."""

from __future__ import annotations

import re

EVENT = b"\ndata:"
DONE = re.compile(rb"\ndata: ?\[DONE\]")
USAGE = re.compile(rb'"usage"\s*:\s*\{((?:[^{}]+|\{[^{}]*\})*)')
PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')
KEPT_LINE = 16  # more than the longest of the patterns above
KEPT_BYTES = 4096  # the usage stands near the end of a response


class EventCounter:
    """Counts the data events of a stream. A newline within a JSON text is written as \\n, so a line that begins with
    `data:` is an event and never content. The closing [DONE] is no event."""

    def __init__(self) -> None:
        self.events = 0
        self._tail = b"\n"
        self._in_tail = 0

    def feed(self, data: bytes) -> int:
        """The events that began in `data`, the next bytes of the stream; -1 if an earlier one turns out as [DONE]."""
        seen = self._tail + data
        count = _events(seen) - self._in_tail
        self._tail = seen[-KEPT_LINE:]
        self._in_tail = _events(self._tail)
        self.events += count
        return count


def _events(text: bytes) -> int:
    return text.count(EVENT) - (len(DONE.findall(text)) if b"[DONE]" in text else 0)


class ResponseTail:
    """Keeps the end of a response, where its usage stands."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> None:
        self._tail = data[-KEPT_BYTES:] if len(data) >= KEPT_BYTES else (self._tail + data)[-KEPT_BYTES:]

    def usage(self) -> tuple[int | None, int | None]:
        """(prompt tokens, output tokens) of the last usage, None where it does not say."""
        found = USAGE.findall(self._tail)
        if not found:
            return None, None
        prompt, output = PROMPT.search(found[-1]), OUTPUT.search(found[-1])
        return (int(prompt[1]) if prompt else None, int(output[1]) if output else None)
