"""Generate the requests that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vidur.config import (
    BaseRequestGeneratorConfig,
    PrefixGroupsRequestGeneratorConfig,
    ServegenRequestGeneratorConfig,
    SessionsRequestGeneratorConfig,
    SessionTraceRequestGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    TraceRequestGeneratorConfig,
)
from vidur.request_generator.prefix_groups_request_generator import generate_prefix_groups
from vidur.request_generator.request_table import RequestTable
from vidur.request_generator.servegen_request_generator import replay_clients
from vidur.request_generator.session_trace_request_generator import replay_sessions
from vidur.request_generator.sessions_request_generator import generate_sessions
from vidur.request_generator.synthetic_request_generator import synthesize_requests
from vidur.request_generator.trace_replay_request_generator import replay_trace

_GENERATORS: dict[type[BaseRequestGeneratorConfig], Callable[[Any], RequestTable]] = {
    PrefixGroupsRequestGeneratorConfig: generate_prefix_groups,
    ServegenRequestGeneratorConfig: replay_clients,
    SessionTraceRequestGeneratorConfig: replay_sessions,
    SessionsRequestGeneratorConfig: generate_sessions,
    SyntheticRequestGeneratorConfig: synthesize_requests,
    TraceRequestGeneratorConfig: replay_trace,
}


def generate_requests(config: BaseRequestGeneratorConfig) -> RequestTable:
    """Generate the requests that `config` describes; equal configurations give equal requests.

    Raises InputError if a file is missing or malformed, or no request results.
    """
    return _GENERATORS[type(config)](config)
