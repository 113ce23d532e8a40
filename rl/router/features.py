"""Compute the policy's raw features, before normalisation.

Times are in decode iterations of the fastest replica, so that a policy transfers to other models and hardware. Prompts
are counted in iterations too, by the time that the replica takes to prefill them.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from vidur.observation import (
    ARRIVAL_AGE,
    ARRIVAL_PROMPT,
    AWAITING,
    AWAITING_TOKENS,
    COMPLETED_COUNT,
    COMPLETED_PROMPT,
    DECODE_SECONDS,
    GAUGE_AGE,
    GAUGE_KV_USAGE,
    GAUGE_WAITING,
    ITL_EWMA,
    KV_TOKENS,
    OUTSTANDING,
    PREFILL_SECONDS,
    PROMPT_TOKENS,
    QUEUE_AGE,
    QUEUE_COLUMNS,
    QUEUE_PROMPT,
    SPEED,
    STREAMED_TOKENS,
    Floats,
)
from vidur.scheduler.routers.choice import expected_output

Rows: TypeAlias = Floats | list[Floats]

# Rows of `derive_facts`, computed once for a cluster. The last three are the same for every replica: seconds of the
# time unit, and two features of the context.
SLOWNESS, PER_SPEED, PER_DECODE, PREFILL_RATE, PER_KV, UNIT, CAPACITY, PREFILL_COST = range(8)
FACTS = 8

# Rows of a replica's features, log(1 + quantity). `queue_depth` ages and as many prompts follow, then the interactions.
(
    F_OUTSTANDING, F_AWAITING, F_PROMPT_TOKENS, F_AWAITING_TOKENS, F_STREAMED, F_TOKEN_GAP, F_SLOWNESS, F_LOAD,
    F_BACKLOG, F_ARRIVAL, F_CONTEXT, F_MEAN_PROMPT, F_KV_EXPECTED, F_WAITING, F_KV_USAGE,
) = range(15)  # fmt: skip
AGGREGATES = 15

# Interactions: products of quantities, linear in the score.
(
    I_BACKLOG, I_INTERFERENCE, I_LOAD, I_SLOWNESS, I_MEAN, I_SIZE_BACKLOG, I_SIZE_INTERFERENCE, I_SIZE_LOAD,
    I_SIZE_SLOWNESS, I_SIZE_MEAN, I_LOAD_LOAD, I_LOAD_MEAN, I_LOAD_LARGER, I_BACKLOG_BACKLOG, I_KV_EXCESS, I_OLDEST,
) = range(16)  # fmt: skip
INTERACTIONS = 16

# The features of the request and the cluster.
G_PROMPT, G_AGE, G_BETA, G_OUTPUT, G_MEAN_PROMPT, G_REPLICAS, G_CAPACITY, G_PREFILL, G_GAUGE_AGE = range(9)
CONTEXT = 9

# The expected output of a request, in tokens, before any has completed.
PRIOR_OUTPUT = 256.0

# Units of the interactions: iterations of backlog, iterations of interference, requests; then two priors that smooth
# ratios of prompts: tokens, requests.
_BACKLOG, _INTERFERENCE, _LOAD, _SHORT, _FEW = 50.0, 2000.0, 30.0, 50.0, 0.2
_KV_FULL = 0.7
# Where the square of load_load goes over into its tangent, in units of load_linear.
LOAD_KNEE = 1.5


def ttft_weight(beta: float) -> float:
    """Return the weight of TTFT beside E2E at this beta. It grows faster than beta: 3.8 at 5, 10 at 10, 70 at 40."""
    weight: float = 10.0 * (beta / 10.0) ** 1.4
    return weight


def feature_count(queue_depth: int) -> int:
    """Return the number of features of a replica."""
    return AGGREGATES + 2 * queue_depth + INTERACTIONS


def derive_facts(hardware: Floats, out: Floats) -> None:
    """Write what the features need of the hardware into `out`, float64[FACTS, replicas]."""
    # In loops, as Numba takes seconds to compile operations on whole arrays.
    unit, prefill = np.inf, np.inf
    for i in range(len(hardware)):
        unit = min(unit, hardware[i, DECODE_SECONDS])
        prefill = min(prefill, hardware[i, PREFILL_SECONDS])
    for i in range(len(hardware)):
        out[PER_SPEED, i] = 1.0 / hardware[i, SPEED]
        out[SLOWNESS, i] = out[PER_SPEED, i] - 1.0
        out[PER_DECODE, i] = 1.0 / hardware[i, DECODE_SECONDS]
        out[PREFILL_RATE, i] = hardware[i, PREFILL_SECONDS] / unit
        out[PER_KV, i] = 1.0 / hardware[i, KV_TOKENS]
    out[UNIT] = unit
    out[CAPACITY] = math.log1p(hardware[:, SPEED].sum())
    out[PREFILL_COST] = math.log1p(1000.0 * prefill / unit)


def mean_prompt_of_all(outstanding: float, prompts: float, arrival: Floats, completions: Floats) -> float:
    """Return the mean prompt, in tokens, of all completed, outstanding and arriving requests.

    outstanding: their number; prompts: the sum of their prompts.
    """
    tokens = completions[COMPLETED_PROMPT] + prompts + arrival[ARRIVAL_PROMPT]
    return tokens / (completions[COMPLETED_COUNT] + outstanding + 1.0)  # type: ignore[no-any-return]


def encode_state(
    ledger: Floats,
    gauges: Floats,
    facts: Floats,
    arrival: Floats,
    completions: Floats,
    beta: float,
    available: int,
    out: Floats,
    context: Floats,
) -> None:
    """Write every replica's features into `out`, float64[features, replicas], and the shared ones into `context`.

    facts: from `derive_facts`; available: the number of available replicas.
    """
    outstanding, prompts = ledger[:, OUTSTANDING].sum(), ledger[:, PROMPT_TOKENS].sum()
    mean_prompt = mean_prompt_of_all(outstanding, prompts, arrival, completions)
    encode_rows(ledger, gauges, facts, arrival, completions, mean_prompt, out, ledger.T, facts, out)
    encode_context(gauges, facts, arrival, completions, mean_prompt, beta, available, context)


def encode_rows(
    ledger: Floats,
    gauges: Floats,
    facts: Floats,
    arrival: Floats,
    completions: Floats,
    mean_prompt: float,
    out: Floats,
    columns: Rows,
    constants: Rows,
    rows: Rows,
) -> None:
    """Write every replica's features into `out`, float64[features, replicas].

    mean_prompt: of all requests; columns, constants, rows: ledger.T, facts and out again, as arrays or as lists of
    views of their rows. Plain NumPy pays for each operation, indexing included: so neighbouring rows are taken at once,
    and single rows from the lists.
    """
    queue = len(out) - INTERACTIONS
    depth = (queue - AGGREGATES) // 2
    # NumPy is slower with its own scalars than with Python's floats.
    output, prompt = float(expected_output(completions, PRIOR_OUTPUT)), float(arrival[ARRIVAL_PROMPT])
    size = math.log((prompt + _SHORT) / (mean_prompt + _SHORT))
    rate, slowness = constants[PREFILL_RATE], constants[SLOWNESS]
    outstanding, prompts, awaiting = columns[OUTSTANDING], columns[PROMPT_TOKENS], columns[AWAITING_TOKENS]

    by_column = ledger.T
    out[F_OUTSTANDING : F_STREAMED + 1] = by_column[OUTSTANDING : STREAMED_TOKENS + 1]
    np.multiply(columns[ITL_EWMA], constants[PER_DECODE], rows[F_TOKEN_GAP])
    rows[F_SLOWNESS][:] = slowness
    by_speed, backlog_seconds, arriving = rows[F_LOAD], rows[F_BACKLOG], rows[F_ARRIVAL]
    np.multiply(outstanding, constants[PER_SPEED], by_speed)
    np.multiply(awaiting, rate, backlog_seconds)
    np.multiply(rate, prompt, arriving)
    context, mean_here, kv = rows[F_CONTEXT], rows[F_MEAN_PROMPT], rows[F_KV_EXPECTED]
    np.subtract(prompts, awaiting, context)
    np.add(context, columns[STREAMED_TOKENS], context)
    context[:] = np.maximum(context, 0.0)
    np.add(outstanding, _FEW, kv)
    np.add(prompts, _FEW * mean_prompt, mean_here)
    np.divide(mean_here, kv, mean_here)
    np.multiply(outstanding, output, kv)
    np.add(kv, prompts, kv)
    np.add(kv, prompt + output, kv)
    np.multiply(kv, constants[PER_KV], kv)
    out[F_WAITING : F_KV_USAGE + 1] = gauges.T[GAUGE_WAITING : GAUGE_KV_USAGE + 1]
    ages = by_column[QUEUE_AGE : QUEUE_AGE + QUEUE_COLUMNS * depth : QUEUE_COLUMNS]
    queued = by_column[QUEUE_PROMPT : QUEUE_PROMPT + QUEUE_COLUMNS * depth : QUEUE_COLUMNS]
    np.multiply(ages, 1.0 / facts[UNIT, 0], out[AGGREGATES : AGGREGATES + depth])
    np.multiply(queued, rate, out[AGGREGATES + depth : queue])
    encode_interactions(columns, constants, mean_prompt, size, out, rows)
    np.multiply(kv, 10.0, kv)
    np.multiply(rows[F_KV_USAGE], 10.0, rows[F_KV_USAGE])
    np.log1p(out[:queue], out[:queue])


def encode_interactions(
    columns: Rows, constants: Rows, mean_prompt: float, size: float, out: Floats, rows: Rows
) -> None:
    """Into the last rows of `out` the interactions, of aggregates whose logarithm is not taken yet. size: log of the
    arriving prompt over the mean of all; the rest as of `encode_rows`."""
    queue = len(out) - INTERACTIONS
    outstanding, by_speed = columns[OUTSTANDING], rows[F_LOAD]
    mean_here, kv = rows[F_MEAN_PROMPT], rows[F_KV_EXPECTED]
    backlog, interference, load = rows[queue + I_BACKLOG], rows[queue + I_INTERFERENCE], rows[queue + I_LOAD]
    mean, larger, excess = rows[queue + I_MEAN], rows[queue + I_LOAD_LARGER], rows[queue + I_KV_EXCESS]
    np.multiply(rows[F_BACKLOG], 1.0 / _BACKLOG, backlog)
    np.subtract(outstanding, columns[AWAITING], interference)
    np.multiply(interference, rows[F_ARRIVAL], interference)
    np.multiply(interference, 1.0 / _INTERFERENCE, interference)
    np.multiply(by_speed, 1.0 / _LOAD, load)
    rows[queue + I_SLOWNESS][:] = constants[SLOWNESS]
    np.add(mean_here, _SHORT, mean)
    np.multiply(mean, 1.0 / (mean_prompt + _SHORT), mean)
    np.log(mean, mean)
    products = out[queue:]
    np.multiply(products[I_BACKLOG : I_MEAN + 1], size, products[I_SIZE_BACKLOG : I_SIZE_MEAN + 1])
    # The square of the load, and beyond the knee its tangent.
    square = rows[queue + I_LOAD_LOAD]
    excess[:] = np.minimum(load, LOAD_KNEE)
    np.add(load, load, square)
    np.subtract(square, excess, square)
    np.multiply(square, excess, square)
    np.multiply(load, mean, rows[queue + I_LOAD_MEAN])
    np.subtract(size, mean, larger)
    larger[:] = np.maximum(larger, 0.0)
    np.multiply(larger, load, larger)
    np.multiply(backlog, backlog, rows[queue + I_BACKLOG_BACKLOG])
    np.subtract(kv, _KV_FULL, excess)
    excess[:] = np.maximum(excess, 0.0)
    if queue > AGGREGATES:
        np.multiply(rows[AGGREGATES], 1.0 / _BACKLOG, rows[queue + I_OLDEST])
    else:
        rows[queue + I_OLDEST][:] = 0.0


def encode_context(
    gauges: Floats,
    facts: Floats,
    arrival: Floats,
    completions: Floats,
    mean_prompt: float,
    beta: float,
    available: int,
    out: Floats,
) -> None:
    """Write the features of the request and the cluster into `out`, float64[CONTEXT].

    available: the number of available replicas.
    """
    out[G_PROMPT] = math.log1p(arrival[ARRIVAL_PROMPT])
    out[G_AGE] = math.log1p(arrival[ARRIVAL_AGE] / facts[UNIT, 0])
    out[G_BETA] = math.log1p(ttft_weight(beta))
    out[G_OUTPUT] = math.log1p(expected_output(completions, PRIOR_OUTPUT))
    out[G_MEAN_PROMPT] = math.log1p(mean_prompt)
    out[G_REPLICAS] = math.log1p(available)
    out[G_CAPACITY] = facts[CAPACITY, 0]
    out[G_PREFILL] = facts[PREFILL_COST, 0]
    out[G_GAUGE_AGE] = math.log1p(gauges[0, GAUGE_AGE])
