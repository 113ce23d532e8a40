"""How a real server served a workload: a JSON line for each request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vidur.atomic import write_text
from vidur.errors import InputError
from vidur.request_generator import RequestTable


@dataclass(frozen=True, slots=True)
class Measured:
    """One request, as its client saw it. sent_at: seconds from the first; ttft, e2e: seconds from when it was sent."""

    sent_at: float
    prompt_tokens: int
    output_tokens: int
    ttft: float
    e2e: float

    @property
    def tpot(self) -> float:
        """Mean seconds per output token after the first; nan of a single one."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else float("nan")


def write_measured(path: str | Path, requests: Iterable[Measured]) -> None:
    write_text(path, "".join(json.dumps(asdict(request)) + "\n" for request in requests))


def read_measured(path: str | Path) -> list[Measured]:
    """The requests in the order in which they were sent. Raises InputError for what is no such file."""
    requests = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    for number, line in enumerate(lines, 1):
        try:
            request = Measured(**json.loads(line))
            if not (request.prompt_tokens >= 1 and request.output_tokens >= 1 and 0 <= request.ttft <= request.e2e):
                raise ValueError("lengths are at least 1, and the first token comes before the last")
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: no request as python -m rl.vllm.load notes it: {error}") from None
        requests.append(request)
    if not requests:
        raise InputError(f"{path}: no requests in it")
    return sorted(requests, key=lambda request: request.sent_at)


def as_workload(requests: list[Measured], source: str) -> RequestTable:
    """The same arrivals and lengths, for a simulation; in the same order."""
    return RequestTable.of(
        arrived_at=np.array([request.sent_at for request in requests], np.float64),
        num_prefill_tokens=np.array([request.prompt_tokens for request in requests], np.int64),
        num_decode_tokens=np.array([request.output_tokens for request in requests], np.int64),
        source=source,
    )
