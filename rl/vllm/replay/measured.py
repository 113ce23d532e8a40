"""Write and read how a real server served a workload, with a JSON line per request."""

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
    """A request as its client saw it. sent_at: seconds after the first request; ttft, e2e: seconds after sent_at."""

    sent_at: float
    prompt_tokens: int
    output_tokens: int
    ttft: float
    e2e: float

    @property
    def tpot(self) -> float:
        """Mean seconds per output token after the first; nan for a single token."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else float("nan")


def write_measured(path: str | Path, requests: Iterable[Measured]) -> None:
    write_text(path, "".join(json.dumps(asdict(request)) + "\n" for request in requests))


def read_measured(path: str | Path) -> list[Measured]:
    """Read the requests in the order in which they were sent. Raises InputError."""
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
                raise ValueError("lengths must be at least 1, and TTFT between 0 and E2E")
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not a request of python -m rl.vllm.load: {error}") from None
        requests.append(request)
    if not requests:
        raise InputError(f"{path} has no requests")
    return sorted(requests, key=lambda request: request.sent_at)


def as_workload(requests: list[Measured], source: str) -> RequestTable:
    """Return the same arrivals and lengths, in the same order, for a simulation."""
    return RequestTable.of(
        arrived_at=np.array([request.sent_at for request in requests], np.float64),
        num_prefill_tokens=np.array([request.prompt_tokens for request in requests], np.int64),
        num_decode_tokens=np.array([request.output_tokens for request in requests], np.int64),
        source=source,
    )
