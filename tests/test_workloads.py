"""The shipped distributions: they are what the script makes, and sampling gives them back."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidur.data_files import data_path
from vidur.errors import InputError
from vidur.request_generator.quantile_table import QuantileTable, load_quantile_table, parse_quantile_table
from vidur.request_generator.trace import read_trace

NAMES = ("arxiv_summarization", "azure_code_2023", "azure_conv_2023")
TRACES = ("arxiv_summarization_first2000.csv", "splitwise_code.csv", "splitwise_conv.csv")
TABLE: dict[str, Any] = {
    "rank_correlation": 0.5,
    "probabilities": [0, 0.5, 1],
    "prefill_tokens": {"quantiles": [1, 10, 100]},
    "decode_tokens": {"quantiles": [5, 5, 5]},
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "scripts" / "make_workloads.py"
    spec = importlib.util.spec_from_file_location("make_workloads", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_the_shipped_tables(shared: Path, script: ModuleType, tmp_path: Path) -> None:
    traces = shared / "traces"
    arguments = ["--arxiv", traces / TRACES[0], "--azure-code", traces / TRACES[1], "--azure-conv", traces / TRACES[2]]
    assert script.main([*map(str, arguments), "--output-dir", str(tmp_path)]) == 0
    assert sorted(path.stem for path in data_path("workloads").glob("*.json")) == sorted(NAMES)
    for name in NAMES:
        made = (tmp_path / f"{name}.json").read_bytes()
        assert made == (data_path("workloads") / f"{name}.json").read_bytes()


def test_the_script_refuses_what_is_no_trace(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--azure-conv", str(tmp_path / "none.csv"), "--output-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --azure-conv: there is no file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_table_says_where_it_comes_from(name: str) -> None:
    table = json.loads((data_path("workloads") / f"{name}.json").read_text())
    assert table["name"] == name
    assert table["script"] == "scripts/make_workloads.py"
    assert table["source"] and table["licence"]
    assert table["num_requests"] >= 2000
    assert len(table["probabilities"]) >= 201
    assert ("interarrival" in table) == name.startswith("azure")


@pytest.mark.parametrize(("name", "trace"), list(zip(NAMES, TRACES, strict=True)))
def test_sampling_gives_each_length_s_distribution_and_their_rank_correlation(
    shared: Path, script: ModuleType, name: str, trace: str
) -> None:
    source = read_trace(str(shared / "traces" / trace), "--trace", arrivals=False)
    sampled = load_quantile_table(name, "--name").sample(200_000, np.random.default_rng(42))
    for expected, actual in zip((source.prefill_tokens, source.decode_tokens), sampled, strict=True):
        assert actual.mean() == pytest.approx(expected.mean(), rel=0.01)
        assert np.percentile(actual, [50, 90]) == pytest.approx(np.percentile(expected, [50, 90]), rel=0.01)
        assert np.percentile(actual, 99) == pytest.approx(np.percentile(expected, 99), rel=0.05)
        assert expected.min() <= actual.min() and actual.max() <= expected.max()
    correlation = script.rank_correlation(source.prefill_tokens, source.decode_tokens)
    assert script.rank_correlation(*sampled) == pytest.approx(correlation, abs=0.01)


@given(st.floats(-1, 1))
def test_any_rank_correlation_can_be_had(correlation: float) -> None:
    line = np.array([1.0, 1e6])
    prefill, decode = QuantileTable(np.array([0.0, 1.0]), line, line, correlation).sample(
        20_000, np.random.default_rng(0)
    )
    ranks = [np.argsort(np.argsort(tokens)) for tokens in (prefill, decode)]
    assert np.corrcoef(ranks[0], ranks[1])[0, 1] == pytest.approx(correlation, abs=0.03)


def test_the_script_s_rank_correlation_shares_ranks_among_equals(script: ModuleType) -> None:
    # By hand: ranks (1.5, 1.5, 3, 4) and (2, 1, 3.5, 3.5); summed products of deviations 4, squares 4.5 and 4.5.
    correlation = script.rank_correlation(np.array([1, 1, 2, 3]), np.array([5, 4, 9, 9]))
    assert correlation == pytest.approx(4 / 4.5)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda table: table.pop(name) and None


def with_entry(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda table: table.update({name: value})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without("probabilities"), "t.json: probabilities must be a list of at least two numbers"),
        (with_entry("probabilities", [0, 0.7, 0.9]), "t.json: probabilities must go from 0 to 1"),
        (with_entry("probabilities", [0, True, 1]), "t.json: probabilities must be a list of at least two numbers"),
        (with_entry("probabilities", [0, 1]), "t.json: prefill_tokens.quantiles has 3 values for 2 probabilities"),
        (with_entry("prefill_tokens", 5), "t.json: prefill_tokens.quantiles must be a list of at least two numbers"),
        (
            with_entry("decode_tokens", {"quantiles": [3, 2, 1]}),
            "t.json: decode_tokens.quantiles must be finite and in ascending order",
        ),
        (
            with_entry("decode_tokens", {"quantiles": [1, 2, float("nan")]}),
            "t.json: decode_tokens.quantiles must be finite and in ascending order",
        ),
        (
            with_entry("decode_tokens", {"quantiles": [0, 2, 3]}),
            "t.json: decode_tokens.quantiles must be lengths of at least 1 token",
        ),
        (with_entry("rank_correlation", 1.5), "t.json: rank_correlation must be a number from -1 to 1, not 1.5"),
        (without("rank_correlation"), "t.json: rank_correlation must be a number from -1 to 1, not None"),
    ],
)
def test_malformed_tables(change: Callable[[dict[str, Any]], None], expected: str) -> None:
    table = copy.deepcopy(TABLE)
    assert parse_quantile_table(table, "t.json").rank_correlation == 0.5
    change(table)
    with pytest.raises(InputError) as caught:
        parse_quantile_table(table, "t.json")
    assert str(caught.value) == expected


def test_malformed_files(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    for content, expected in (
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not a text file in UTF-8"),
        (b"[]", "expected an object"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=expected):
            load_quantile_table(str(file), "--distribution")
    with pytest.raises(InputError, match="--distribution: cannot read"):
        load_quantile_table(str(tmp_path / "none.json"), "--distribution")
