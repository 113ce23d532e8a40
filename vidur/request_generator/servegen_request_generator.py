"""Generate the requests of ServeGen's clients."""

from __future__ import annotations

import numpy as np

from vidur.config import ServegenRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator.arrivals import MOST_REQUESTS
from vidur.request_generator.request_table import RequestTable
from vidur.request_generator.servegen import draw_requests, read_clients
from vidur.request_generator.token_limits import cut_prompts


def replay_clients(config: ServegenRequestGeneratorConfig) -> RequestTable:
    """Return the requests of all clients between `start` and `start + duration`, scaled to a mean rate of `qps`.

    Raises InputError if the file cannot be read, or no or too many requests arrive.
    """
    clients, seconds = read_clients(config.trace_file, config.flag("trace_file"))
    end = config.start + config.duration
    middles = np.arange(config.start, end, min(seconds, config.duration) / 64)
    windows = (middles // seconds).astype(np.int64) % len(clients[0].rates)
    mean = float(sum(client.rates[windows].mean() for client in clients))
    scale = 1.0 if config.qps is None else config.qps / mean if mean else 0.0
    if mean * scale * config.duration > MOST_REQUESTS:
        raise InputError(f"{mean * scale:.3g} requests arrive per second: lower {config.flag('qps')} or the duration")
    generator = np.random.default_rng(config.seed)
    drawn = [draw_requests(client, generator, config.start, end, seconds, scale) for client in clients]
    arrived_at, prefill, decode = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
    if not len(arrived_at):
        raise InputError(f"no request arrives in {config.flag('duration')} {config.duration:g}: lengthen it")
    kept = np.argsort(arrived_at, kind="stable")[: config.num_requests]
    lengths = cut_prompts(prefill[kept], decode[kept], config.max_tokens)
    source = f"{config.trace_file} (ServeGen): {len(kept)} requests of {len(clients)} clients, seed {config.seed}"
    source += f"; {lengths.note}" if lengths.note else ""
    return RequestTable.of(arrived_at[kept], lengths.num_prefill_tokens, lengths.num_decode_tokens, source)
