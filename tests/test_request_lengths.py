"""How long synthetic requests are."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import (
    BaseRequestLengthGeneratorConfig,
    FixedRequestLengthGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    MixtureRequestLengthGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    QuantileRequestLengthGeneratorConfig,
    StaticRequestIntervalGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    TraceRequestLengthGeneratorConfig,
    UniformRequestLengthGeneratorConfig,
    ZipfRequestLengthGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator import RequestTable, generate_requests
from vidur.request_generator.zipf_lengths import draw_zipf, scramble

UNIFORM_TABLE = {
    "rank_correlation": 0.0,
    "probabilities": [0, 1],
    "prefill_tokens": {"quantiles": [100, 200]},
    "decode_tokens": {"quantiles": [10, 20]},
}


def requests(lengths: BaseRequestLengthGeneratorConfig, count: int = 100, seed: int = 42) -> RequestTable:
    return generate_requests(
        SyntheticRequestGeneratorConfig(
            seed=seed,
            num_requests=count,
            length_generator_config=lengths,
            interval_generator_config=StaticRequestIntervalGeneratorConfig(),
        )
    )


def pairs(table: RequestTable) -> list[tuple[int, int]]:
    return list(zip(table.num_prefill_tokens.tolist(), table.num_decode_tokens.tolist(), strict=True))


def write_lengths(path: Path, rows: list[tuple[int, int]]) -> str:
    path.write_text("num_prefill_tokens,num_decode_tokens\n" + "".join(f"{p},{d}\n" for p, d in rows))
    return str(path)


def test_fixed() -> None:
    assert pairs(requests(FixedRequestLengthGeneratorConfig(prefill_tokens=7, decode_tokens=3), 2)) == [(7, 3)] * 2


def uniform_pair(stream: random.Random, low: int, high: int, ratio: float) -> tuple[int, int]:
    total = stream.uniform(low, high)
    decode = math.ceil(total / (1 + ratio))
    return max(int(total - decode), 1), decode


def test_uniform_lengths_and_poisson_intervals_take_turns_at_one_stream() -> None:
    table = generate_requests(
        SyntheticRequestGeneratorConfig(
            seed=7,
            num_requests=100,
            length_generator_config=UniformRequestLengthGeneratorConfig(
                min_tokens=10, max_tokens=90, prefill_to_decode_ratio=3.0
            ),
            interval_generator_config=PoissonRequestIntervalGeneratorConfig(qps=2.0),
        )
    )
    stream, now = random.Random(7), 0.0
    for arrived_at, pair in zip(table.arrived_at.tolist(), pairs(table), strict=True):
        now += min(-math.log(1.0 - stream.random()) / 2.0, 1.5)
        assert (arrived_at, pair) == (now, uniform_pair(stream, 10, 90, 3.0))


def test_uniform_lengths_have_the_stream_to_themselves_otherwise() -> None:
    lengths = UniformRequestLengthGeneratorConfig(min_tokens=10, max_tokens=90)
    stream = random.Random(42)
    expected = [uniform_pair(stream, 10, 90, 20.0) for _ in range(50)]
    assert pairs(requests(lengths, 50)) == expected
    gamma = SyntheticRequestGeneratorConfig(
        num_requests=50,
        length_generator_config=lengths,
        interval_generator_config=GammaRequestIntervalGeneratorConfig(),
    )
    assert pairs(generate_requests(gamma)) == expected


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(2, 5000),
    st.floats(0.01, 100),
    st.floats(0, 3).filter(lambda theta: abs(theta - 1) > 1e-3),
    st.booleans(),
)
def test_synthetic_lengths_stay_in_range(
    seed: int, low: int, width: int, ratio: float, theta: float, scramble: bool
) -> None:
    limits: dict[str, Any] = {"min_tokens": low, "max_tokens": low + width, "prefill_to_decode_ratio": ratio}
    for config in (
        UniformRequestLengthGeneratorConfig(**limits),
        ZipfRequestLengthGeneratorConfig(seed=seed, theta=theta, scramble=scramble, **limits),
    ):
        table = requests(config, 50, seed=seed)
        total = table.num_prefill_tokens + table.num_decode_tokens
        assert (total >= low - 1).all()  # each part is cut to an integer by itself
        assert (total <= max(low + width, 2)).all()


# Upstream's own first values, by running its generator.
@pytest.mark.parametrize(
    ("low", "high", "theta", "seed", "expected"),
    [
        (1024, 4096, 0.6, 42, [1330, 3745, 2481, 1930, 1070, 1070, 1032, 3200]),
        (1, 100, 0.99, 7, [1, 36, 7, 27, 91, 11, 10, 1]),
        (5, 50, 1.5, 3, [6, 10, 5, 6, 20, 21, 5, 5]),
        (10, 12, 0.3, 1, [10, 11, 10, 10, 10, 10, 10, 10]),
        (1, 4096, 0.0, 5, [911, 3567, 848, 3763, 2002, 2507, 3138, 2124]),
    ],
)
def test_zipf_totals_are_upstream_s(low: int, high: int, theta: float, seed: int, expected: list[int]) -> None:
    config = ZipfRequestLengthGeneratorConfig(seed=seed, theta=theta, min_tokens=low, max_tokens=high)
    split = [(total - total / 21.0, total / 21.0) for total in expected]
    assert pairs(requests(config, len(expected))) == [(max(int(p), 1), max(int(d), 1)) for p, d in split]


def test_scrambling_moves_equal_totals_to_equal_places() -> None:
    plain = draw_zipf(2000, 1024, 4096, 0.9, 42)
    moved = scramble(plain, 1024, 4096, 42)
    assert moved.min() >= 1024 and moved.max() <= 4096
    assert len(set(zip(plain.tolist(), moved.tolist(), strict=True))) == len(set(plain.tolist()))
    assert np.bincount(plain).argmax() == 1024 != np.bincount(moved).argmax()
    assert moved.tolist() != scramble(plain, 1024, 4096, 1).tolist()
    assert scramble(np.array([1024, 2000, 1024]), 1024, 4096, 42).tolist() == [3553, 3899, 3553]


def test_scrambled_lengths_are_those_totals() -> None:
    table = requests(ZipfRequestLengthGeneratorConfig(scramble=True), 200)
    total = scramble(draw_zipf(200, 1024, 4096, 0.6, 42), 1024, 4096, 42)
    assert table.num_decode_tokens.tolist() == (total / 21.0).astype(np.int64).tolist()


def test_zipf_beyond_doubles_is_refused() -> None:
    with pytest.raises(InputError, match="theta must be at most 10, not 1000"):
        requests(ZipfRequestLengthGeneratorConfig(theta=1000.0))
    with pytest.raises(InputError, match="max_tokens must be less than"):
        requests(ZipfRequestLengthGeneratorConfig(max_tokens=10**12))


def test_a_length_trace_is_dealt_without_replacement_then_again(tmp_path: Path) -> None:
    rows = [(i + 10, i + 1) for i in range(20)]
    config = TraceRequestLengthGeneratorConfig(trace_file=write_lengths(tmp_path / "lengths.csv", rows))
    table = requests(config, 50)
    dealt = pairs(table)
    assert sorted(dealt[:20]) == rows
    assert dealt[:20] != rows
    assert dealt == (dealt[:20] * 3)[:50]
    assert "its 20 lengths used again in the same order" in table.source
    other = TraceRequestLengthGeneratorConfig(trace_file=config.trace_file, seed=1)
    assert pairs(requests(other, 20)) != dealt[:20]


def test_a_length_trace_is_scaled_and_cut_in_proportion(tmp_path: Path) -> None:
    file = write_lengths(tmp_path / "lengths.csv", [(300, 100)])
    scaled = TraceRequestLengthGeneratorConfig(trace_file=file, prefill_scale_factor=0.5, decode_scale_factor=1.999)
    assert pairs(requests(scaled, 1)) == [(150, 199)]
    cut = TraceRequestLengthGeneratorConfig(trace_file=file, max_tokens=50)
    assert pairs(requests(cut, 1)) == [(300 - 263, 100 - 88)]
    vanishing = TraceRequestLengthGeneratorConfig(trace_file=file, prefill_scale_factor=1e-9, decode_scale_factor=1e200)
    assert pairs(requests(vanishing, 1)) == [(1, 4095)]
    assert "1 cut to 50 tokens (in the whole trace)" in requests(cut, 1).source


@pytest.mark.parametrize("header", ["ContextTokens,GeneratedTokens", "Timestamp,Request tokens,Response tokens"])
def test_a_length_trace_may_be_of_any_form(tmp_path: Path, header: str) -> None:
    (tmp_path / "lengths.csv").write_text(f"{header}\n{'0,' * (header.count(',') - 1)}5,6\n")
    config = TraceRequestLengthGeneratorConfig(trace_file=str(tmp_path / "lengths.csv"))
    assert pairs(requests(config, 1)) == [(5, 6)]


def test_quantile_lengths_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "flat.json").write_text(json.dumps(UNIFORM_TABLE))
    table = requests(QuantileRequestLengthGeneratorConfig(distribution=str(tmp_path / "flat.json")), 20_000)
    for tokens, low, high in ((table.num_prefill_tokens, 100, 200), (table.num_decode_tokens, 10, 20)):
        assert (tokens.min(), tokens.max()) == (low, high)
        assert tokens.mean() == pytest.approx((low + high) / 2, rel=0.01)


def test_quantile_lengths_are_cut_as_those_of_a_trace() -> None:
    table = requests(QuantileRequestLengthGeneratorConfig(max_tokens=512), 5000)
    total = table.num_prefill_tokens + table.num_decode_tokens
    assert total.max() == 512
    assert "cut to 512 tokens" in table.source


def test_quantile_lengths_depend_on_the_seed_and_begin_alike() -> None:
    config = QuantileRequestLengthGeneratorConfig()
    assert pairs(requests(config, 500))[:100] == pairs(requests(config, 100))
    assert pairs(requests(QuantileRequestLengthGeneratorConfig(seed=1), 100)) != pairs(requests(config, 100))


def test_an_unknown_distribution_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"quantile_request_length_generator_config_distribution.*azure_conv_2023"):
        requests(QuantileRequestLengthGeneratorConfig(distribution="azure_conv_2032"))
    with pytest.raises(InputError, match=r"cannot read nowhere/table.json: No such file"):
        requests(QuantileRequestLengthGeneratorConfig(distribution="nowhere/table.json"))


def write_table(path: Path, prefill: list[int], decode: list[int]) -> str:
    table = {**UNIFORM_TABLE, "prefill_tokens": {"quantiles": prefill}, "decode_tokens": {"quantiles": decode}}
    path.write_text(json.dumps(table))
    return str(path)


def test_mixtures_draw_by_weight(tmp_path: Path) -> None:
    short, long = (
        write_table(tmp_path / f"{name}.json", [least, least + 10], [5, 5])
        for name, least in (("short", 100), ("long", 900))
    )
    config = MixtureRequestLengthGeneratorConfig(distributions=(short, long), weights=(3.0, 1.0))
    table = requests(config, 20_000)
    are_long = table.num_prefill_tokens >= 900
    assert are_long.mean() == pytest.approx(0.25, abs=0.01)
    assert table.num_prefill_tokens[~are_long].max() <= 110
    assert "short.json" in table.source and "long.json" in table.source
    # The first ones do not depend on the count; the seed matters.
    assert pairs(requests(config, 50)) == pairs(table)[:50]
    assert pairs(requests(dataclasses.replace(config, seed=1), 50)) != pairs(table)[:50]


def test_a_mixture_of_one_is_that_one(tmp_path: Path) -> None:
    table = requests(MixtureRequestLengthGeneratorConfig(distributions=("azure_conv_2023",)), 5000)
    alone = requests(QuantileRequestLengthGeneratorConfig(), 5000)
    for column in ("num_prefill_tokens", "num_decode_tokens"):
        assert getattr(table, column).mean() == pytest.approx(getattr(alone, column).mean(), rel=0.1)


def test_bad_mixtures() -> None:
    with pytest.raises(InputError, match="weights has 1 values for 2 distributions"):
        MixtureRequestLengthGeneratorConfig(weights=(1.0,))
    with pytest.raises(InputError, match="distributions names nothing"):
        MixtureRequestLengthGeneratorConfig(distributions=())
    with pytest.raises(InputError, match="did you mean azure_conv_2023"):
        requests(MixtureRequestLengthGeneratorConfig(distributions=("azure_conv",)))


@pytest.mark.parametrize("kind", [TraceRequestLengthGeneratorConfig, QuantileRequestLengthGeneratorConfig])
def test_one_token_is_too_few(kind: type[BaseRequestLengthGeneratorConfig]) -> None:
    with pytest.raises(InputError, match="max_tokens must be at least 2"):
        requests(kind(max_tokens=1))


def test_a_missing_length_trace_names_its_flag() -> None:
    with pytest.raises(InputError, match="--trace_request_length_generator_config_trace_file: there is no file"):
        requests(TraceRequestLengthGeneratorConfig())


def test_global_random_state_is_left_alone() -> None:
    random.seed(3)
    before = random.getstate()
    requests(UniformRequestLengthGeneratorConfig())
    requests(ZipfRequestLengthGeneratorConfig())
    assert random.getstate() == before
    assert np.array_equal(np.unique(requests(FixedRequestLengthGeneratorConfig()).num_prefill_tokens), [2048])
