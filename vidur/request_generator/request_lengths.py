"""Draw the lengths of synthetic requests; one function for each length generator."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from vidur.config import (
    BaseRequestLengthGeneratorConfig,
    FixedRequestLengthGeneratorConfig,
    MixtureRequestLengthGeneratorConfig,
    QuantileRequestLengthGeneratorConfig,
    TraceRequestLengthGeneratorConfig,
    UniformRequestLengthGeneratorConfig,
    ZipfRequestLengthGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator.quantile_table import load_quantile_table
from vidur.request_generator.random_streams import numpy_random
from vidur.request_generator.request_table import FloatArray
from vidur.request_generator.token_limits import Lengths, check_max_tokens, cut_in_proportion, fitted, whole_tokens
from vidur.request_generator.trace import read_trace
from vidur.request_generator.zipf_lengths import draw_zipf, scramble

WIDEST_ZIPF = 100_000_000  # the distribution takes one double for each length
STEEPEST_ZIPF = 10.0  # beyond, powers of lengths overflow, and nearly every request has the least length


@singledispatch
def draw_lengths(config: BaseRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    """Draw the lengths of `count` requests. uniform: draws in [0, 1), one per request, for the uniform generator only,
    because upstream draws its lengths and the Poisson intervals alternately from one stream."""
    raise AssertionError(type(config))


@draw_lengths.register
def _fixed(config: FixedRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    return Lengths(np.full(count, config.prefill_tokens, np.int64), np.full(count, config.decode_tokens, np.int64))


@draw_lengths.register
def _uniform(config: UniformRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    total = config.min_tokens + (config.max_tokens - config.min_tokens) * uniform
    decode = np.ceil(total / (1 + config.prefill_to_decode_ratio))
    return fitted(whole_tokens(total - decode), whole_tokens(decode), config.max_tokens)


@draw_lengths.register
def _zipf(config: ZipfRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    if config.theta > STEEPEST_ZIPF:
        raise InputError(f"{config.flag('theta')} must be at most {STEEPEST_ZIPF:g}, not {config.theta:g}")
    if config.max_tokens - config.min_tokens >= WIDEST_ZIPF:
        raise InputError(f"{config.flag('max_tokens')} must be less than {WIDEST_ZIPF} above the fewest tokens")
    total = draw_zipf(count, config.min_tokens, config.max_tokens, config.theta, config.seed)
    if config.scramble:
        total = scramble(total, config.min_tokens, config.max_tokens, config.seed)
    decode = total / (1 + config.prefill_to_decode_ratio)
    return fitted(whole_tokens(total - decode), whole_tokens(decode), config.max_tokens)


@draw_lengths.register
def _trace(config: TraceRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    check_max_tokens(config.max_tokens, config.flag("max_tokens"))
    trace = read_trace(config.trace_file, config.flag("trace_file"), arrivals=False)
    prefill = whole_tokens(trace.prefill_tokens, config.prefill_scale_factor)
    decode = whole_tokens(trace.decode_tokens, config.decode_scale_factor)
    prefill, decode, cut = cut_in_proportion(prefill, decode, config.max_tokens)
    order = np.resize(numpy_random(config.seed).permutation(len(trace)), count)
    again = f"its {len(trace)} lengths used again in the same order" if count > len(trace) else ""
    notes = [*trace.notes, f"{cut} (in the whole trace)" if cut else "", again]
    return Lengths(prefill[order], decode[order], ", ".join(note for note in notes if note))


@draw_lengths.register
def _quantile(config: QuantileRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    check_max_tokens(config.max_tokens, config.flag("max_tokens"))
    table = load_quantile_table(config.distribution, config.flag("distribution"))
    prefill, decode = table.sample(count, np.random.default_rng(config.seed))
    return cut_in_proportion(prefill, decode, config.max_tokens)


@draw_lengths.register
def _mixture(config: MixtureRequestLengthGeneratorConfig, count: int, uniform: FloatArray) -> Lengths:
    check_max_tokens(config.max_tokens, config.flag("max_tokens"))
    tables = [load_quantile_table(name, config.flag("distributions")) for name in config.distributions]
    weights = np.array(config.weights or [1.0] * len(tables))
    # Each table has its own generator, so that the first lengths do not depend on `count`.
    chooser, *generators = (np.random.default_rng([config.seed, number]) for number in range(len(tables) + 1))
    chosen = chooser.choice(len(tables), count, p=weights / weights.sum())
    drawn = [table.sample(count, generator) for table, generator in zip(tables, generators, strict=True)]
    prefill, decode = (np.choose(chosen, [pair[part] for pair in drawn]) for part in (0, 1))
    return cut_in_proportion(prefill, decode, config.max_tokens)


def describe_lengths(config: BaseRequestLengthGeneratorConfig) -> str:
    """Describe the generator in a few words, with its file if it has one."""
    if isinstance(config, TraceRequestLengthGeneratorConfig):
        return f"lengths of {config.trace_file}"
    if isinstance(config, QuantileRequestLengthGeneratorConfig):
        return f"lengths from the quantiles of {config.distribution}"
    if isinstance(config, MixtureRequestLengthGeneratorConfig):
        return f"lengths from the quantiles of {', '.join(config.distributions)} mixed"
    return f"{config.get_type()} lengths"
