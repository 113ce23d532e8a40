"""From the configuration of a request generator to its requests."""

from __future__ import annotations

from vidur.config import BaseRequestGeneratorConfig, SyntheticRequestGeneratorConfig, TraceRequestGeneratorConfig
from vidur.request_generator.request_table import RequestTable
from vidur.request_generator.synthetic_request_generator import synthesize_requests
from vidur.request_generator.trace_replay_request_generator import replay_trace


def generate_requests(config: BaseRequestGeneratorConfig) -> RequestTable:
    """The requests that `config` describes: the same configuration always gives the same ones.

    Raises InputError where a file is missing or malformed, or where the configuration gives no request.
    """
    if isinstance(config, SyntheticRequestGeneratorConfig):
        return synthesize_requests(config)
    assert isinstance(config, TraceRequestGeneratorConfig)
    return replay_trace(config)
