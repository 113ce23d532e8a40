"""From logged steps to a simulation, and from a simulation back to what a client measured."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

import rl.vllm.calibrate.__main__ as calibrate
import rl.vllm.replay.__main__ as replay
from rl.vllm.calibrate.__main__ import TERMS, CalibrateConfig, fit_steps, make_tables, terms
from rl.vllm.calibrate.least_squares import least_squares
from rl.vllm.calibrate.steps import Step, format_step
from rl.vllm.decide.config import parse_router
from rl.vllm.replay import load
from rl.vllm.replay.measured import Measured, as_workload, read_measured, write_measured
from vidur import SimulationConfig, simulate
from vidur.errors import InputError

MODEL = "meta-llama/Llama-2-7b-hf"
# Seconds: step, request, decode, KV token, pair of prompt tokens, tokens in four ranges.
FACTORS = np.array([4e-3, 1e-4, 5e-5, 2e-7, 3e-9, 2e-4, 1e-4, 5e-5, 2e-5])


def logged_steps(count: int, factors: np.ndarray[Any, Any] = FACTORS) -> list[Step]:
    """Steps of one engine that take what the factors say."""
    rng = np.random.default_rng(0)
    steps: list[Step] = []
    kv = running = 0
    for number in range(count):
        prompts = int(rng.integers(0, 3))
        decodes = running
        prompt_tokens = int(prompts * rng.integers(1, 700))
        tokens = prompt_tokens + decodes
        if tokens == 0:
            prompts, prompt_tokens, tokens = 1, 50, 50
        of_step = (tokens, prompts + decodes, decodes, kv, prompt_tokens**2 / max(prompts, 1))
        seconds = float((terms(*(np.array([float(value)]) for value in of_step)) @ factors)[0])
        running = int(rng.integers(0, 40))
        kv = running * int(rng.integers(10, 900))
        whole = seconds if decodes else None
        steps.append(
            Step(float(number), "a", 0, prompt_tokens, prompts, decodes, kv, running, 0, whole, seconds - 1e-3)
        )
    return steps


def test_factors_are_found_again() -> None:
    fit = fit_steps(logged_steps(2000))
    np.testing.assert_allclose(fit.factors, FACTORS, rtol=1e-6)
    assert fit.explained == pytest.approx(1.0)


def test_engines_have_kv_caches_of_their_own() -> None:
    steps = logged_steps(1000)
    others = [dataclasses.replace(step, replica="b", at=step.at + 0.5, kv_tokens=0) for step in logged_steps(1000)]
    mixed = sorted([*steps, *others], key=lambda step: step.at)
    alone = calibrate._kv_before(steps)
    together = calibrate._kv_before(mixed)
    assert (together[0::2] == alone).all()
    assert (together[1::2] == 0).all()


def test_a_short_log_is_refused() -> None:
    with pytest.raises(InputError, match="only 50 steps of known duration"):
        fit_steps(logged_steps(50))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(10, 60))
def test_least_squares_is_that_of_scipy(seed: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, values = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    ours = least_squares(matrix, values)
    assert (ours >= 0.0).all()
    np.testing.assert_allclose(ours, nnls(matrix, values)[0], atol=1e-8)


def step(tokens: float, decodes: float, kv: float, pairs: float, requests: float = 1.0) -> float:
    """Seconds of a step."""
    values = (tokens, requests, decodes, kv, pairs)
    return float((terms(*(np.array([value]) for value in values)) @ FACTORS)[0])


def calibrated(folder: Path) -> SimulationConfig:
    """The simulation that the command makes of those steps."""
    (folder / "steps").write_text("".join(map(format_step, logged_steps(2000))), encoding="utf-8")
    flags = ["--steps", str(folder / "steps"), "--model", MODEL, "--num_replicas", "2", "--output", str(folder / "out")]
    assert calibrate.main(flags) == 0
    return SimulationConfig.from_file(folder / "out/simulation.yaml")


def test_a_simulated_step_takes_what_the_factors_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = calibrated(tmp_path)
    text = capsys.readouterr().out
    assert "of known duration" in text
    group = re.search(r"--groups (\S+)`", text)
    assert group is not None
    (routing, _) = parse_router("x", "", argv=["--replica", "http://a:1", "--groups", group.group(1)])
    assert routing.groups[0].decode_seconds == pytest.approx(step(16, 16, 16 * 1024, 0, requests=16), rel=1e-2)
    requests = [Measured(0.0, 512, 3, 0.0, 0.0), Measured(100.0, 40, 1, 0.0, 0.0), Measured(200.0, 16, 2, 0.0, 0.0)]
    frame = simulate(config, as_workload(requests, "by hand")).requests

    # KV lengths are looked up at multiples of 64: 513 and 514 at 576.
    np.testing.assert_allclose(
        frame["request_e2e_time"],
        [
            step(512, 0, 0, 512**2) + 2 * step(1, 1, 576, 0),
            step(40, 0, 0, 48**2),
            step(16, 0, 0, 16**2) + step(1, 1, 64, 0),
        ],
        rtol=1e-4,
    )


def test_tables_cover_what_the_replica_allows() -> None:
    config = CalibrateConfig(steps=("x",), model=MODEL, max_num_seqs=32, max_num_batched_tokens=1000)
    tables = make_tables(FACTORS, config, "test")
    assert tables.max_batch_size == 32
    assert tables.max_tokens >= 1000
    assert tables.max_chunk >= 1000


def test_a_replay_of_itself_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is made from a simulation: the replay finds the delay, and all else right."""
    config = calibrated(tmp_path)
    capsys.readouterr()
    rng = np.random.default_rng(1)
    sent = [
        Measured(float(at), int(rng.integers(10, 500)), int(rng.integers(1, 50)), 0.0, 0.0)
        for at in np.cumsum(rng.exponential(0.05, 200))
    ]
    for scheduler in ("round_robin", "lor"):
        latencies = replay.simulated_latencies(config, scheduler, sent).later(0.007)
        served = [
            dataclasses.replace(request, ttft=float(latencies.ttft[i]), e2e=float(latencies.e2e[i]))
            for i, request in enumerate(sent)
        ]
        write_measured(tmp_path / scheduler, served)
        assert read_measured(tmp_path / scheduler) == served
    flags = [
        "--simulation", str(tmp_path / "out/simulation.yaml"), "--overhead_from", f"lor={tmp_path / 'lor'}",
        "--measured", f"round_robin={tmp_path / 'round_robin'}", f"lor={tmp_path / 'lor'}",
        "--output", str(tmp_path / "table.md"),
    ]  # fmt: skip
    assert replay.main(flags) == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "table.md").read_text()
    assert "A request spends 7.00 ms" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 18
    assert all(row.endswith(("| +0.0 % |", "| -0.0 % |")) for row in rows)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ([], "give SCHEDULER=FILE"),
        (["--measured", "x"], "expected SCHEDULER=FILE"),
        (["--measured", "lorr=/nowhere"], "No such file"),
    ],
)
def test_a_replay_refuses_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], error: str
) -> None:
    (tmp_path / "s.yaml").write_text("{}", encoding="utf-8")
    assert replay.main(["--simulation", str(tmp_path / "s.yaml"), *flags]) == 2
    assert error in capsys.readouterr().err


@pytest.fixture
def stub() -> Iterator[str]:
    script = Path(__file__).resolve().parent.parent / "scripts/stub_replica.py"
    with subprocess.Popen([sys.executable, str(script), "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().split()[-1].rpartition(':')[2]}"
        finally:
            process.kill()


def test_a_load_is_served_and_noted(stub: str, tmp_path: Path) -> None:
    flags = ["--url", stub, "--num_requests", "60", "--qps", "200", "--warm_up", "2", "--output", str(tmp_path / "m")]
    assert load.main(flags) == 0
    served = read_measured(tmp_path / "m")
    plan = load.plan(load.LoadConfig(num_requests=60, qps=200.0))
    assert [(len(each.prompt), each.output_tokens) for each in plan] == [
        (request.prompt_tokens, request.output_tokens) for request in served
    ]
    assert served[0].sent_at == 0.0
    assert all(0.0 < request.ttft <= request.e2e for request in served)


def test_a_load_on_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert load.main(["--url", "http://127.0.0.1:9", "--output", str(tmp_path / "m")]) == 2
    assert "does not serve" in capsys.readouterr().err
    assert load.main(["--prompt_tokens", "5", "2"]) == 2
    assert "--prompt_tokens: expected the shortest and the longest" in capsys.readouterr().err


def test_every_term_has_a_factor() -> None:
    assert len(TERMS) == len(FACTORS)
