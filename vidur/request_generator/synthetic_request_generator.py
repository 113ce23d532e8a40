"""Generate synthetic requests from an interval generator and a length generator."""

from __future__ import annotations

from vidur.config import SyntheticRequestGeneratorConfig
from vidur.request_generator.arrivals import draw_arrivals, uniform_draws
from vidur.request_generator.request_lengths import describe_lengths, draw_lengths
from vidur.request_generator.request_table import RequestTable


def synthesize_requests(config: SyntheticRequestGeneratorConfig) -> RequestTable:
    """Generate `num_requests` requests, those that arrive before `duration`, or all of an arrival trace.

    With the same seed, arrivals and lengths equal upstream's. Raises InputError if no or too many requests arrive, or
    an arrival trace ends too soon.
    """
    arrived_at = draw_arrivals(config)
    count = len(arrived_at)
    lengths = draw_lengths(config.length_generator_config, count, uniform_draws(config, count)[1])
    intervals = config.interval_generator_config.get_type()
    source = f"synthetic: {count} requests, {intervals} arrivals, {describe_lengths(config.length_generator_config)}"
    source += f", seed {config.seed}" + (f"; {lengths.note}" if lengths.note else "")
    return RequestTable.of(arrived_at, lengths.num_prefill_tokens, lengths.num_decode_tokens, source)
