"""Replay a trace file: arrivals and lengths together."""

from __future__ import annotations

from vidur.config import TraceRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator.request_table import RequestTable, is_sorted
from vidur.request_generator.token_limits import check_max_tokens, cut_prompts, whole_tokens
from vidur.request_generator.trace import read_trace
from vidur.request_generator.trace_file import MOST, shipped_trace


def replay_trace(config: TraceRequestGeneratorConfig) -> RequestTable:
    """Return the first `num_requests` requests of the file, scaled and sorted by arrival.

    Raises InputError if the file cannot be read as a trace.
    """
    check_max_tokens(config.max_tokens, config.flag("max_tokens"))
    trace = read_trace(
        shipped_trace(config.trace_file),
        config.flag("trace_file"),
        config.trace_format,
        config.num_requests,
        hash_block_size=config.hash_block_size,
    )
    prefill = whole_tokens(trace.prefill_tokens, config.prefill_scale_factor)
    decode = whole_tokens(trace.decode_tokens, config.decode_scale_factor)
    lengths = cut_prompts(prefill, decode, config.max_tokens)
    latest = float(trace.arrived_at.max()) * config.time_scale_factor
    if latest > MOST:
        raise InputError(f"{config.flag('time_scale_factor')} puts an arrival at {latest:g} s: at most {MOST:g}")
    arrived_at = trace.arrived_at * config.time_scale_factor
    order = "" if is_sorted(arrived_at) else "sorted by arrival"
    content, dropped = trace.content, ""
    if content is not None and config.prefill_scale_factor != 1.0:
        content, dropped = None, "hash_ids do not fit scaled prompts and are left out"
    if content is not None:
        content = content.cut(lengths.num_prefill_tokens)
    notes = [note for note in (*trace.notes, order, lengths.note, dropped) if note]
    source = "; ".join([f"{config.trace_file} ({trace.format} form): {len(trace)} requests", *notes])
    return RequestTable.of(
        arrived_at,
        lengths.num_prefill_tokens,
        lengths.num_decode_tokens,
        source,
        session_id=trace.session_id,
        priority=trace.priority,
        content=content,
        turns=trace.turns,
    )
