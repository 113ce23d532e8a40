"""The log of engine steps that the stat logger writes inside vLLM, and its reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidur.errors import InputError


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an engine.

    at: seconds since 1970, when its output reached the API server. prompt_tokens: tokens of prompts that it processed;
    prompts: requests that these are of; decodes: requests that got one token each. kv_tokens: tokens that the KV-cache
    had room for in use after it, the requests that ended excluded. running,
    waiting: requests after it. seconds: since the engine's step before, where the engine did not rest in between; else
    None. model_seconds: of these in the model, where vLLM measures it (--enable-logging-iteration-details); else None.
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
    """The line of the log, its end included."""
    fields = {name: getattr(step, name) for name in Step.__slots__}
    for name in ("at", *_TIMES):
        if fields[name] is not None:
            fields[name] = round(fields[name], 6)
    return json.dumps(fields, separators=(",", ":")) + "\n"


def read_steps(paths: Iterable[str | Path]) -> list[Step]:
    """The steps of some logs, in the order of time. A last line that was cut short is left out.

    Raises InputError for a file that is missing or no step log.
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
            return  # the engine was stopped in the middle of it
        try:
            yield _step(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: no step of an engine: {error!r}") from None


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
