"""Format and read the log of engine steps that the stat logger writes inside vLLM."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidur.errors import InputError


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an engine.

    at: when its output reached the API server, in seconds since 1970. prompt_tokens: prefilled tokens; prompts: their
    requests; decodes: requests that got one token each. kv_tokens, running, waiting: KV tokens in use and requests
    after the step, without those that ended. seconds: since the engine's last step, None after an idle time.
    model_seconds: time in the model if vLLM measures it (--enable-logging-iteration-details), else None.
    """

    at: float
    replica: str
    engine: int
    prompt_tokens: int
    prompts: int
    decodes: int
    kv_tokens: int
    running: int
    waiting: int
    seconds: float | None
    model_seconds: float | None


_COUNTS = ("engine", "prompt_tokens", "prompts", "decodes", "kv_tokens", "running", "waiting")
_TIMES = ("seconds", "model_seconds")


def format_step(step: Step) -> str:
    """Format a line of the log, with its newline."""
    fields = {name: getattr(step, name) for name in Step.__slots__}
    for name in ("at", *_TIMES):
        if fields[name] is not None:
            fields[name] = round(fields[name], 6)
    return json.dumps(fields, separators=(",", ":")) + "\n"


def read_steps(paths: Iterable[str | Path]) -> list[Step]:
    """Read the steps of logs in order of time, without incomplete last lines.

    Raises InputError for a file that is missing or not a step log.
    """
    steps = [step for path in paths for step in _read(Path(path))]
    return sorted(steps, key=lambda step: step.at)


def _read(path: Path) -> Iterator[Step]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return  # the engine was stopped while writing it
        try:
            yield _step(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not a step of an engine: {error!r}") from None


def _step(values: Any) -> Step:
    if not isinstance(values, dict) or not isinstance(values["replica"], str):
        raise ValueError("expected an object with the name of a replica")
    counts: dict[str, Any] = {name: values[name] for name in _COUNTS}
    if not all(type(count) is int and count >= 0 for count in counts.values()):
        raise ValueError("a count is not a whole number")
    times: dict[str, Any] = {name: None if values[name] is None else float(values[name]) for name in _TIMES}
    if not all(seconds is None or 0.0 <= seconds < float("inf") for seconds in times.values()):
        raise ValueError("a time is not a number of seconds")
    return Step(at=float(values["at"]), replica=values["replica"], **counts, **times)
