"""Requests of ServeGen's clients: rates, burstiness, lengths, and what malformed files get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidur.config import ServegenRequestGeneratorConfig
from vidur.errors import InputError
from vidur.request_generator import RequestTable, generate_requests
from vidur.request_generator.servegen import _renewals

QUANTILES = {"input_tokens": [10, 20, 100], "output_tokens": [1, 2, 3]}


def client(*windows: list[Any], quantiles: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"windows": list(windows), "quantiles": QUANTILES if quantiles is None else quantiles}


def replay(path: Path, *clients: dict[str, Any], **settings: Any) -> RequestTable:
    path.write_text(json.dumps({"window_seconds": 600, "clients": list(clients)}))
    return generate_requests(ServegenRequestGeneratorConfig(trace_file=str(path), **settings))


@pytest.mark.parametrize(("distribution", "shape"), [("Gamma", 1.0), ("Gamma", 0.04), ("Weibull", 0.4), ("Gamma", 9.0)])
def test_the_mean_number_of_requests_is_the_rate_however_bursty(distribution: str, shape: float) -> None:
    counts = [len(_renewals(np.random.default_rng(seed), distribution, shape, 30.0)) for seed in range(4000)]
    assert np.mean(counts) == pytest.approx(30, abs=5 * np.std(counts) / 4000**0.5)


def test_intervals_have_the_client_s_variation() -> None:
    for distribution, shape, cv in (("Gamma", 0.25, 2.0), ("Gamma", 4.0, 0.5), ("Weibull", 0.5, 5**0.5)):
        gaps = np.diff(_renewals(np.random.default_rng(1), distribution, shape, 200_000.0))
        assert gaps.mean() == pytest.approx(1, rel=0.05)
        assert gaps.std() == pytest.approx(cv, rel=0.1)


def test_rates_follow_the_windows(tmp_path: Path) -> None:
    clients = (
        client([2.0, 1, "Gamma", 1, 0], [0.0, 0, "", 0, 0]),
        client([1.0, 1, "Weibull", 1, 0], [5.0, 1, "Gamma", 1, 0]),
    )
    table = replay(tmp_path / "t", *clients, duration=2400.0)
    counts = np.histogram(table.arrived_at, 4, (0, 2400))[0]
    assert counts == pytest.approx([1800, 3000, 1800, 3000], rel=0.1), "the windows are repeated"
    late = replay(tmp_path / "t", *clients, start=600.0, duration=300.0)
    assert len(late) == pytest.approx(1500, rel=0.1)
    scaled = replay(tmp_path / "t", *clients, qps=8.0, duration=1200.0)
    assert np.histogram(scaled.arrived_at, 2, (0, 1200))[0] == pytest.approx([3600, 6000], rel=0.1)
    assert len(replay(tmp_path / "t", *clients, num_requests=7)) == 7
    again = replay(tmp_path / "t", *clients, qps=8.0, duration=1200.0)
    assert again.arrived_at.tobytes() == scaled.arrived_at.tobytes()


def test_lengths_follow_the_quantiles(tmp_path: Path) -> None:
    clients = client([20.0, 1, "Gamma", 1, 0]), client([20.0, 1, "Gamma", 1, 0], quantiles={})
    table = replay(tmp_path / "t", *clients)
    assert len(table) == pytest.approx(12_000, rel=0.05), "a client without lengths is left out"
    assert "of 1 clients" in table.source and table.content is None and table.turns is None
    prompts = table.num_prefill_tokens
    assert (prompts.min(), prompts.max()) == (10, 100)
    assert np.quantile(prompts, [0.25, 0.5, 0.75]) == pytest.approx([15, 20, 60], rel=0.05)
    assert set(table.num_decode_tokens) == {1, 2, 3}
    cut = replay(tmp_path / "t", *clients, max_tokens=50)
    assert (cut.num_prefill_tokens + cut.num_decode_tokens).max() == 50 and "cut to 50 tokens" in cut.source


def test_the_shipped_day() -> None:
    table = generate_requests(ServegenRequestGeneratorConfig(qps=30.0, duration=3600.0))
    assert len(table) == pytest.approx(30 * 3600, rel=0.1) and "of 26 clients" in table.source


WINDOW = [1.0, 1, "Gamma", 1, 0]


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        ([], "t: expected an object with window_seconds and clients"),
        ([3], "t: clients[0]: expected an object with windows and quantiles"),
        ([client([1.0, 2])], "t: clients[0].windows[0]: expected [rate, cv, distribution, shape, scale], not [1.0, 2]"),
        ([client([-1.0, 1, "Gamma", 1, 0])], "t: clients[0].windows[0][0]: -1.0 is not a number of at least 0"),
        ([client([1.0, 1, "Pareto", 1, 0])], "t: clients[0].windows[0]: expected Gamma or Weibull and a shape above 0"),
        (
            [client(WINDOW, quantiles={"input_tokens": [1], "output_tokens": [1, 2]})],
            "t: clients[0].quantiles.input_tokens",
        ),
        (
            [client(WINDOW, quantiles={"input_tokens": [3, 1], "output_tokens": [1, 2]})],
            "t: clients[0].quantiles.input_tokens: expected lengths in ascending order",
        ),
        ([client(WINDOW, quantiles={})], "t: needs clients with quantiles, all of as many windows"),
        ([client(WINDOW), client(WINDOW, WINDOW)], "t: needs clients with quantiles, all of as many windows"),
        ([client([0.0, 0, "", 0, 0])], "no request arrives in --servegen_request_generator_config_duration 600"),
    ],
)
def test_one_line_names_the_culprit(tmp_path: Path, clients: list[Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        replay(tmp_path / "t", *clients)
    text = str(caught.value).replace(f"{tmp_path}/", "")
    assert text.startswith(expected) and "\n" not in text


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="requests arrive per second: lower --servegen_request_generator_config_qps"):
        replay(tmp_path / "t", client(WINDOW), qps=1e9)
