"""vidur-router: route OpenAI-compatible HTTP requests to vLLM replicas with any scheduler of the simulator."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from rl.vllm.decide.config import RouterConfig, parse_router
from rl.vllm.http.limits import LimitsConfig
from rl.vllm.process.config import AdmissionConfig, BreakerConfig, GaugesConfig, ProxyConfig, ServeConfig
from vidur.errors import InputError
from vidur.tool import run_tool

CLASSES = (ServeConfig, LimitsConfig, AdmissionConfig, ProxyConfig, BreakerConfig, GaugesConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as the flags say and return the exit status: 0 after SIGTERM or SIGINT."""
    # `forks`: the process handles signals itself.
    return run_tool("vidur-router", _parse, _serve, argv, forks=True)


def _parse(argv: Sequence[str] | None) -> tuple[Any, ...]:
    routing, parts = parse_router("vidur-router", __doc__ or "", CLASSES, argv)
    return (routing, *parts)


def _serve(routing: RouterConfig, *parts: Any) -> None:
    if not routing.replicas:
        raise InputError("no replicas: give --replica http://HOST:PORT for each")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # Import the server, and packages that only it needs, after the flags are checked.
    from rl.vllm.process.process import serve

    serve(routing, *parts)


if __name__ == "__main__":
    sys.exit(main())
