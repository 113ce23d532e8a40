"""Generate the requests that a configuration describes."""

from __future__ import annotations

from vidur.config import BaseRequestGeneratorConfig, SyntheticRequestGeneratorConfig, TraceRequestGeneratorConfig
from vidur.request_generator.request_table import RequestTable
from vidur.request_generator.synthetic_request_generator import synthesize_requests
from vidur.request_generator.trace_replay_request_generator import replay_trace


def generate_requests(config: BaseRequestGeneratorConfig) -> RequestTable:
    """Generate the requests that `config` describes; equal configurations give equal requests.

    Raises InputError if a file is missing or malformed, or no request results.
    """
    if isinstance(config, SyntheticRequestGeneratorConfig):
        return synthesize_requests(config)
    assert isinstance(config, TraceRequestGeneratorConfig)
    return replay_trace(config)
