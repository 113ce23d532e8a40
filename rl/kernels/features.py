"""What the policy sees of the cluster: raw features, before normalisation.

All times are in units of the fastest replica's decode iteration, so that a policy fits clusters of other models and
hardware. Prompts are counted in iterations too: the time that the replica's hardware takes to read them.
"""

from __future__ import annotations

import math

import numpy as np

from vidur.scheduler.global_scheduler.choice import PRIOR_WEIGHT, expected_output
from vidur.scheduler.observation import (
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
    KV_TOKENS,
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

# What the hardware comes to, computed once for a cluster. Rows of `derive_facts`; the last three are the same for every
# replica: seconds of the time unit, and two features of the context.
SLOWNESS, PER_SPEED, PER_DECODE, PREFILL_RATE, PER_KV, UNIT, CAPACITY, PREFILL_COST = range(8)
FACTS = 8

# Rows of a replica's features: log(1 + x) of quantities. The ages and the prompts of the queue follow, `queue_depth` of
# each, then the interactions.
(
    F_OUTSTANDING, F_AWAITING, F_PROMPT_TOKENS, F_AWAITING_TOKENS, F_STREAMED, F_TOKEN_GAP, F_SLOWNESS, F_LOAD,
    F_BACKLOG, F_ARRIVAL, F_CONTEXT, F_MEAN_PROMPT, F_KV_EXPECTED, F_WAITING, F_KV_USAGE,
) = range(15)  # fmt: skip
AGGREGATES = 15

# Interactions: products of quantities, which a score takes linearly.
(
    I_BACKLOG, I_INTERFERENCE, I_LOAD, I_SLOWNESS, I_MEAN, I_SIZE_BACKLOG, I_SIZE_INTERFERENCE, I_SIZE_LOAD,
    I_SIZE_SLOWNESS, I_SIZE_MEAN, I_LOAD_LOAD, I_LOAD_MEAN, I_LOAD_LARGER, I_BACKLOG_BACKLOG, I_KV_EXCESS, I_OLDEST,
) = range(16)  # fmt: skip
INTERACTIONS = 16

# The features of the request and the cluster.
G_PROMPT, G_AGE, G_BETA, G_OUTPUT, G_MEAN_PROMPT, G_REPLICAS, G_CAPACITY, G_PREFILL, G_GAUGE_AGE = range(9)
CONTEXT = 9

# What a request's expected lengths are before completions are seen.
PRIOR_OUTPUT, PRIOR_PROMPT = 256.0, 1024.0

# Of interactions: iterations of backlog, of interference, requests, tokens.
_BACKLOG, _INTERFERENCE, _LOAD, _SHORT, _FEW_TOKENS, _FEW = 50.0, 2000.0, 30.0, 50.0, 200.0, 0.2
_KV_FULL = 0.7


def ttft_weight(beta: float) -> float:
    """What TTFT weighs beside E2E at this beta: 10 at 10, and faster than beta: 3.8 at 5, 70 at 40."""
    weight: float = 10.0 * (beta / 10.0) ** 1.4
    return weight


def feature_count(queue_depth: int) -> int:
    """How many features a replica has."""
    return AGGREGATES + 2 * queue_depth + INTERACTIONS


def derive_facts(hardware: Floats, out: Floats) -> None:
    """Into `out`, float64[FACTS, replicas]: what the features need of the hardware."""
    unit = hardware[:, DECODE_SECONDS].min()
    out[PER_SPEED] = 1.0 / hardware[:, SPEED]
    out[SLOWNESS] = out[PER_SPEED] - 1.0
    out[PER_DECODE] = 1.0 / hardware[:, DECODE_SECONDS]
    out[PREFILL_RATE] = hardware[:, PREFILL_SECONDS] / unit
    out[PER_KV] = 1.0 / hardware[:, KV_TOKENS]
    out[UNIT] = unit
    out[CAPACITY] = math.log1p(hardware[:, SPEED].sum())
    out[PREFILL_COST] = math.log1p(1000.0 * hardware[:, PREFILL_SECONDS].min() / unit)


def expected_prompt(completions: Floats) -> float:
    """Mean prompt tokens of what has completed, with a prior that fades: as `expected_output` of the outputs."""
    total = PRIOR_WEIGHT * PRIOR_PROMPT + completions[COMPLETED_PROMPT]
    return total / (PRIOR_WEIGHT + completions[COMPLETED_COUNT])  # type: ignore[no-any-return]


def encode_replicas(
    ledger: Floats, gauges: Floats, facts: Floats, arrival: Floats, completions: Floats, out: Floats
) -> None:
    """Into `out`, float64[features, replicas], the features of every replica. facts: of `derive_facts`.

    One row at a time and several where they lie side by side: in plain NumPy the number of operations is the cost.
    """
    queue = len(out) - INTERACTIONS
    depth = (queue - AGGREGATES) // 2
    columns = ledger.T
    mean_prompt, output = expected_prompt(completions), expected_output(completions, PRIOR_OUTPUT)
    prompt = arrival[ARRIVAL_PROMPT]
    size = math.log((prompt + _SHORT) / (mean_prompt + _SHORT))
    rate = facts[PREFILL_RATE]
    outstanding, prompts = columns[OUTSTANDING], columns[PROMPT_TOKENS]

    out[F_OUTSTANDING : F_STREAMED + 1] = columns[OUTSTANDING : STREAMED_TOKENS + 1]
    np.multiply(columns[TOKEN_SECONDS], facts[PER_DECODE], out[F_TOKEN_GAP])
    out[F_SLOWNESS] = facts[SLOWNESS]
    np.multiply(outstanding, facts[PER_SPEED], out[F_LOAD])
    np.multiply(columns[AWAITING_TOKENS], rate, out[F_BACKLOG])
    np.multiply(rate, prompt, out[F_ARRIVAL])
    context = out[F_CONTEXT]
    np.subtract(prompts, columns[AWAITING_TOKENS], context)
    np.add(context, columns[STREAMED_TOKENS], context)
    context[:] = np.maximum(context, 0.0)
    np.divide(prompts + _FEW_TOKENS, outstanding + _FEW, out[F_MEAN_PROMPT])
    kv = out[F_KV_EXPECTED]
    np.multiply(outstanding, output, kv)
    np.add(kv, prompts, kv)
    np.add(kv, prompt + output, kv)
    np.multiply(kv, facts[PER_KV], kv)
    out[F_WAITING : F_KV_USAGE + 1] = gauges.T[GAUGE_WAITING : GAUGE_KV_USAGE + 1]
    ages = columns[QUEUE_AGE : QUEUE_AGE + QUEUE_COLUMNS * depth : QUEUE_COLUMNS]
    queued = columns[QUEUE_PROMPT : QUEUE_PROMPT + QUEUE_COLUMNS * depth : QUEUE_COLUMNS]
    np.multiply(ages, 1.0 / facts[UNIT, 0], out[AGGREGATES : AGGREGATES + depth])
    np.multiply(queued, rate, out[AGGREGATES + depth : queue])

    products = out[queue:]
    mean, load = products[I_MEAN], products[I_LOAD]
    np.multiply(out[F_BACKLOG], 1.0 / _BACKLOG, products[I_BACKLOG])
    np.subtract(outstanding, columns[AWAITING], products[I_INTERFERENCE])
    np.multiply(products[I_INTERFERENCE], out[F_ARRIVAL] * (1.0 / _INTERFERENCE), products[I_INTERFERENCE])
    np.multiply(out[F_LOAD], 1.0 / _LOAD, load)
    products[I_SLOWNESS] = facts[SLOWNESS]
    np.add(out[F_MEAN_PROMPT], _SHORT, mean)
    np.multiply(mean, 1.0 / (mean_prompt + _SHORT), mean)
    np.log(mean, mean)
    np.multiply(products[I_BACKLOG : I_MEAN + 1], size, products[I_SIZE_BACKLOG : I_SIZE_MEAN + 1])
    np.multiply(load, load, products[I_LOAD_LOAD])
    np.multiply(load, mean, products[I_LOAD_MEAN])
    np.multiply(load, np.maximum(size - mean, 0.0), products[I_LOAD_LARGER])
    np.multiply(products[I_BACKLOG], products[I_BACKLOG], products[I_BACKLOG_BACKLOG])
    products[I_KV_EXCESS] = np.maximum(kv - _KV_FULL, 0.0)
    if depth > 0:
        np.multiply(out[AGGREGATES], 1.0 / _BACKLOG, products[I_OLDEST])
    else:
        products[I_OLDEST] = 0.0
    np.multiply(kv, 10.0, kv)
    np.multiply(out[F_KV_USAGE], 10.0, out[F_KV_USAGE])
    np.log1p(out[:queue], out[:queue])


def encode_context(
    gauges: Floats, facts: Floats, arrival: Floats, completions: Floats, beta: float, available: int, out: Floats
) -> None:
    """Into `out`, float64[CONTEXT]: log(1 + x) of what holds for every replica. available: how many are."""
    out[G_PROMPT] = math.log1p(arrival[ARRIVAL_PROMPT])
    out[G_AGE] = math.log1p(arrival[ARRIVAL_AGE] / facts[UNIT, 0])
    out[G_BETA] = math.log1p(ttft_weight(beta))
    out[G_OUTPUT] = math.log1p(expected_output(completions, PRIOR_OUTPUT))
    out[G_MEAN_PROMPT] = math.log1p(expected_prompt(completions))
    out[G_REPLICAS] = math.log1p(available)
    out[G_CAPACITY] = facts[CAPACITY, 0]
    out[G_PREFILL] = facts[PREFILL_COST, 0]
    out[G_GAUGE_AGE] = math.log1p(gauges[0, GAUGE_AGE])
