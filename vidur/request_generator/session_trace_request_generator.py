"""Replay the sessions of a trace: when they begin is drawn, what they then do is the trace's."""

from __future__ import annotations

import numpy as np

from vidur.config import SessionTraceRequestGeneratorConfig
from vidur.request_generator.request_table import IntArray, RequestTable
from vidur.request_generator.session_pool import SessionPool, session_table
from vidur.request_generator.session_trace import read_sessions
from vidur.request_generator.trace_file import shipped_trace


def replay_sessions(config: SessionTraceRequestGeneratorConfig) -> RequestTable:
    """Return the requests of the file's sessions, dealt in random order, and again when all have begun.

    Raises InputError if the file cannot be read as sessions, or no request results.
    """
    path = shipped_trace(config.trace_file)
    pool, note = read_sessions(path, config.flag("trace_file"), config.max_tokens, config.shared_system)
    order = np.random.default_rng(config.seed).permutation(len(pool))

    def draw(count: int) -> tuple[SessionPool, IntArray]:
        return pool, np.resize(order, count)

    return session_table(config, draw, "; ".join(filter(None, [config.trace_file, note])))
