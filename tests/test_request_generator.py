"""The requests of the reference cases, from the flags that upstream was given."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.config import (
    BaseRequestIntervalGeneratorConfig,
    BaseRequestLengthGeneratorConfig,
    FixedRequestLengthGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    MixtureRequestLengthGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    QuantileRequestLengthGeneratorConfig,
    StaticRequestIntervalGeneratorConfig,
    SyntheticRequestGeneratorConfig,
    TraceRequestGeneratorConfig,
    TraceRequestLengthGeneratorConfig,
    UniformRequestLengthGeneratorConfig,
    ZipfRequestLengthGeneratorConfig,
)
from vidur.request_generator import RequestTable, generate_requests

CASES = (
    "faster_transformer_conv",
    "lightllm_conv",
    "orca_rr_conv",
    "sarathi_70b_tp4_arxiv",
    "sarathi_lor_conv",
    "sarathi_pp2",
    "sarathi_preempt",
    "sarathi_rr_fixed",
    "vllm_70b_tp4_pp2",
    "vllm_rr_conv",
)
LENGTHS = (
    FixedRequestLengthGeneratorConfig(),
    UniformRequestLengthGeneratorConfig(),
    ZipfRequestLengthGeneratorConfig(),
    QuantileRequestLengthGeneratorConfig(),
    QuantileRequestLengthGeneratorConfig(distribution="azure_code_2023"),
    QuantileRequestLengthGeneratorConfig(distribution="arxiv_summarization"),
    MixtureRequestLengthGeneratorConfig(),
)
INTERVALS = (
    PoissonRequestIntervalGeneratorConfig(),
    GammaRequestIntervalGeneratorConfig(cv=2.0),
    StaticRequestIntervalGeneratorConfig(),
)


def case_config(folder: Path, traces: Path) -> SyntheticRequestGeneratorConfig:
    """The request generator of a case's flags; the file of the arXiv trace is the part of it that is at hand."""
    words = json.loads((folder / "case.json").read_text())["flags"]
    flags = {word.removeprefix("--"): words[i + 1] for i, word in enumerate(words[:-1]) if word.startswith("--")}
    lengths: BaseRequestLengthGeneratorConfig = FixedRequestLengthGeneratorConfig()
    file = flags.get("trace_request_length_generator_config_trace_file")
    if file:
        name = "arxiv_summarization_first2000.csv" if "arxiv" in file else Path(file).name
        lengths = TraceRequestLengthGeneratorConfig(trace_file=str(traces / name))
    qps = float(flags[f"{flags['interval_generator_config_type']}_request_interval_generator_config_qps"])
    intervals: BaseRequestIntervalGeneratorConfig = PoissonRequestIntervalGeneratorConfig(qps=qps)
    if flags["interval_generator_config_type"] == "gamma":
        cv = float(flags["gamma_request_interval_generator_config_cv"])
        intervals = GammaRequestIntervalGeneratorConfig(qps=qps, cv=cv)
    return SyntheticRequestGeneratorConfig(
        num_requests=int(flags["synthetic_request_generator_config_num_requests"]),
        length_generator_config=lengths,
        interval_generator_config=intervals,
    )


def read_columns(path: Path) -> dict[str, Any]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("case", CASES)
def test_the_requests_of_a_case_are_upstream_s_to_the_bit(shared: Path, case: str) -> None:
    table = generate_requests(case_config(shared / "golden" / case, shared / "traces"))
    expected = read_columns(shared / "golden" / case / "requests.csv")
    assert table.arrived_at.tolist() == expected["arrived_at"].tolist()
    if "arxiv" not in case:  # upstream shuffled its whole file
        assert table.num_prefill_tokens.tolist() == expected["num_prefill_tokens"].tolist()
        assert table.num_decode_tokens.tolist() == expected["num_decode_tokens"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_replaying_a_case_gives_its_requests(shared: Path, case: str) -> None:
    file = shared / "golden" / case / "requests.csv"
    table = generate_requests(TraceRequestGeneratorConfig(trace_file=str(file), max_tokens=100_000))
    expected = read_columns(file)
    assert table.arrived_at.tolist() == expected["arrived_at"].tolist()
    assert table.num_prefill_tokens.tolist() == expected["num_prefill_tokens"].tolist()
    assert table.num_decode_tokens.tolist() == expected["num_decode_tokens"].tolist()


def same(first: RequestTable, second: RequestTable) -> bool:
    return all(
        getattr(first, name).tobytes() == getattr(second, name).tobytes()
        for name in ("arrived_at", "num_prefill_tokens", "num_decode_tokens", "session_id", "priority")
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.sampled_from(LENGTHS), st.sampled_from(INTERVALS))
def test_any_synthetic_workload_is_valid_and_the_same_every_time(
    seed: int, count: int, lengths: BaseRequestLengthGeneratorConfig, intervals: BaseRequestIntervalGeneratorConfig
) -> None:
    config = SyntheticRequestGeneratorConfig(
        seed=seed, num_requests=count, length_generator_config=lengths, interval_generator_config=intervals
    )
    table = generate_requests(config)
    table.validate()
    assert len(table) == count
    assert (table.num_prefill_tokens + table.num_decode_tokens <= lengths.max_tokens).all()
    assert same(table, generate_requests(config))


def test_the_source_says_what_the_requests_are() -> None:
    config = SyntheticRequestGeneratorConfig(num_requests=3)
    assert generate_requests(config).source == "synthetic: 3 requests, poisson arrivals, fixed lengths, seed 42"
