"""What the policy sees of the cluster: raw features, before normalisation.

All times are in units of the fastest replica's decode iteration, so that a policy fits clusters of other models and
hardware. Prompts are counted in iterations too: the time that the replica's hardware takes to read them.
"""

from __future__ import annotations

import numpy as np

from vidur.scheduler.observation import (
    ARRIVAL_AGE,
    ARRIVAL_PROMPT,
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_OUTPUT,
    COMPLETED_PROMPT,
    DECODE_SECONDS,
    GAUGE_AGE,
    GAUGE_KV_USAGE,
    GAUGE_RUNNING,
    GAUGE_WAITING,
    KV_TOKENS,
    MAX_BATCH_SIZE,
    OUTSTANDING,
    PREFILL_SECONDS,
    PROMPT_TOKENS,
    QUEUE_AGE,
    QUEUE_COLUMNS,
    QUEUE_PROMPT,
    SPEED,
    STREAMED_TOKENS,
    TOKEN_SECONDS,
    Floats,
)

# Columns of a replica's features; AGES and PROMPTS of the queue follow, `queue_depth` of each.
(
    F_OUTSTANDING, F_AWAITING, F_PROMPT_TOKENS, F_AWAITING_TOKENS, F_STREAMED, F_TOKEN_GAP, F_SLOWNESS,
    F_OUTSTANDING_BY_SPEED, F_BACKLOG, F_ARRIVAL, F_CONTEXT, F_MEAN_PROMPT, F_KV_EXPECTED, F_SEATS, F_RUNNING,
    F_WAITING, F_KV_USAGE,
) = range(17)  # fmt: skip
AGGREGATES = 17

# Columns of the features of the request and the cluster.
G_PROMPT, G_AGE, G_BETA, G_OUTPUT, G_MEAN_PROMPT, G_REPLICAS, G_CAPACITY, G_PREFILL, G_GAUGE_AGE = range(9)
CONTEXT = 9

# What a request's expected output is worth before completions are seen, and as how many completions it counts.
PRIOR_OUTPUT, PRIOR_PROMPT, PRIOR_COUNT = 256.0, 1024.0, 20.0


def encode_replicas(
    ledger: Floats, gauges: Floats, hardware: Floats, arrival: Floats, completions: Floats, out: Floats
) -> None:
    """Into `out`, float64[replicas, AGGREGATES + 2 * queue_depth]: log(1 + x) of every feature of every replica."""
    depth = (out.shape[1] - AGGREGATES) // 2
    unit = hardware[:, DECODE_SECONDS].min()
    output = (PRIOR_COUNT * PRIOR_OUTPUT + completions[COMPLETED_OUTPUT]) / (PRIOR_COUNT + completions[COMPLETED_COUNT])
    prompt = arrival[ARRIVAL_PROMPT]
    rate = hardware[:, PREFILL_SECONDS] / unit
    outstanding = ledger[:, OUTSTANDING]
    prompts = ledger[:, PROMPT_TOKENS]
    awaiting_tokens = ledger[:, AWAITING_TOKENS]
    out[:, F_OUTSTANDING] = outstanding
    out[:, F_AWAITING] = ledger[:, AWAITING]
    out[:, F_PROMPT_TOKENS] = prompts
    out[:, F_AWAITING_TOKENS] = awaiting_tokens
    out[:, F_STREAMED] = ledger[:, STREAMED_TOKENS]
    out[:, F_TOKEN_GAP] = ledger[:, TOKEN_SECONDS] / hardware[:, DECODE_SECONDS]
    out[:, F_SLOWNESS] = 1.0 / hardware[:, SPEED] - 1.0
    out[:, F_OUTSTANDING_BY_SPEED] = outstanding / hardware[:, SPEED]
    out[:, F_BACKLOG] = awaiting_tokens * rate
    out[:, F_ARRIVAL] = prompt * rate
    out[:, F_CONTEXT] = np.maximum(prompts - awaiting_tokens + ledger[:, STREAMED_TOKENS], 0.0)
    out[:, F_MEAN_PROMPT] = prompts / np.maximum(outstanding, 1.0)
    out[:, F_KV_EXPECTED] = 10.0 * (prompts + prompt + (outstanding + 1.0) * output) / hardware[:, KV_TOKENS]
    out[:, F_SEATS] = 10.0 * outstanding / hardware[:, MAX_BATCH_SIZE]
    out[:, F_RUNNING] = gauges[:, GAUGE_RUNNING]
    out[:, F_WAITING] = gauges[:, GAUGE_WAITING]
    out[:, F_KV_USAGE] = 10.0 * gauges[:, GAUGE_KV_USAGE]
    for place in range(depth):
        out[:, AGGREGATES + place] = ledger[:, QUEUE_AGE + QUEUE_COLUMNS * place] / unit
        out[:, AGGREGATES + depth + place] = ledger[:, QUEUE_PROMPT + QUEUE_COLUMNS * place] * rate
    np.log1p(out, out)


def encode_context(
    gauges: Floats, hardware: Floats, arrival: Floats, completions: Floats, beta: float, available: int, out: Floats
) -> None:
    """Into `out`, float64[CONTEXT]: log(1 + x) of what holds for every replica. available: how many are."""
    unit = hardware[:, DECODE_SECONDS].min()
    count = PRIOR_COUNT + completions[COMPLETED_COUNT]
    out[G_PROMPT] = arrival[ARRIVAL_PROMPT]
    out[G_AGE] = arrival[ARRIVAL_AGE] / unit
    out[G_BETA] = beta
    out[G_OUTPUT] = (PRIOR_COUNT * PRIOR_OUTPUT + completions[COMPLETED_OUTPUT]) / count
    out[G_MEAN_PROMPT] = (PRIOR_COUNT * PRIOR_PROMPT + completions[COMPLETED_PROMPT]) / count
    out[G_REPLICAS] = available
    out[G_CAPACITY] = hardware[:, SPEED].sum()
    out[G_PREFILL] = 1000.0 * hardware[:, PREFILL_SECONDS].min() / unit
    out[G_GAUGE_AGE] = gauges[0, GAUGE_AGE]
    np.log1p(out, out)
