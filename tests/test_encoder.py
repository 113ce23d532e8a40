"""The encoder: its sizes, and each number in closed form."""

from __future__ import annotations

from dataclasses import replace
from math import log, log1p
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import observe

from rl.router.encoder import EncoderSpec, StateEncoder, spec_difference
from vidur import observation as seen
from vidur.config import SimulationConfig
from vidur.observation import ClusterObservation
from vidur.simulator import Simulator

AGGREGATES, INTERACTIONS, CONTEXT = 15, 16, 9


def a_cluster(depth: int = 2) -> ClusterObservation:
    """Three replicas: a fast one with a queue, a slow one that streams, an idle one that is away."""
    blank = observe(3, prompt=400, speeds=[1.0, 0.5, 0.8], available=[1, 1, 0], completed=(80, 24_000))
    ledger = np.zeros((3, seen.LEDGER_COLUMNS + seen.QUEUE_COLUMNS * depth))
    #                  outstanding, awaiting, prompts, awaiting prompts, streamed, finished, seconds between tokens
    ledger[0, :7] = [6, 2, 3000, 1000, 500, 40, 0.030]
    ledger[1, :7] = [3, 0, 900, 0, 600, 40, 0.050]
    if depth:
        ledger[0, [seen.QUEUE_AGE, seen.QUEUE_PROMPT]] = 0.8, 700
    if depth > 1:
        ledger[0, [seen.QUEUE_AGE + 2, seen.QUEUE_PROMPT + 2]] = 0.3, 300
    gauges = np.zeros((3, seen.GAUGE_COLUMNS))
    gauges[0] = [4, 2, 0.25, 0, 0.6]
    gauges[1:, seen.GAUGE_AGE] = 0.6
    hardware = blank.hardware.copy()
    hardware[:, seen.KV_TOKENS] = [100_000, 10_000, 50_000]
    hardware[:, seen.PREFILL_SECONDS] = [1e-4, 2e-4, 1.25e-4]
    hardware[:, seen.DECODE_SECONDS] = [0.020, 0.040, 0.025]
    arrival, completions = blank.arrival.copy(), blank.completions.copy()
    arrival[seen.ARRIVAL_AGE] = 0.1
    completions[seen.COMPLETED_PROMPT] = 40_000
    return replace(blank, ledger=ledger, gauges=gauges, hardware=hardware, arrival=arrival, completions=completions)


# Of a_cluster: the mean prompt of 80 completed, 9 outstanding and the arrival; the mean output with 20 of 256 added;
# the log-ratio of the arrival's prompt.
MEAN_PROMPT, MEAN_OUTPUT = (40_000 + 3900 + 400) / 90, (20 * 256 + 24_000) / 100
SIZE = log(450 / (MEAN_PROMPT + 50))


def expected(replica: int) -> dict[str, float]:
    """The features of a replica of a_cluster, before log(1 + x)."""
    outstanding, awaiting, prompts, unread, streamed = [(6, 2, 3000, 1000, 500), (3, 0, 900, 0, 600)][replica]
    gap, speed, kv, decode = [(0.030, 1.0, 100_000, 0.020), (0.050, 0.5, 10_000, 0.040)][replica]
    rate = [1e-4, 2e-4][replica] / 0.020  # of the fastest replica's iterations for a prompt token
    quantities = {
        "outstanding": outstanding,
        "awaiting": awaiting,
        "prompt_tokens": prompts,
        "awaiting_tokens": unread,
        "streamed_tokens": streamed,
        "token_gap": gap / decode,
        "slowness": 1 / speed - 1,
        "load": outstanding / speed,
        "backlog": unread * rate,
        "arrival": 400 * rate,
        "context_tokens": prompts - unread + streamed,
        "mean_prompt": (prompts + 0.2 * MEAN_PROMPT) / (outstanding + 0.2),
        "kv_expected": 10 * (prompts + 400 + (outstanding + 1) * MEAN_OUTPUT) / kv,
        "waiting": [2, 0][replica],
        "kv_usage": [2.5, 0.0][replica],
        "queue_0_age": [0.8 / 0.020, 0][replica],
        "queue_1_age": [0.3 / 0.020, 0][replica],
        "queue_0_prompt": [700 * rate, 0][replica],
        "queue_1_prompt": [300 * rate, 0][replica],
    }
    mean = log((quantities["mean_prompt"] + 50) / (MEAN_PROMPT + 50))
    load, backlog = quantities["load"] / 30, quantities["backlog"] / 50
    interference = (outstanding - awaiting) * quantities["arrival"] / 2000
    products = {
        "backlog_linear": backlog,
        "interference": interference,
        "load_linear": load,
        "slowness_linear": quantities["slowness"],
        "mean": mean,
        "size_backlog": SIZE * backlog,
        "size_interference": SIZE * interference,
        "size_load": SIZE * load,
        "size_slowness": SIZE * quantities["slowness"],
        "size_mean": SIZE * mean,
        "load_load": load**2 if load < 1.5 else 3 * load - 2.25,
        "load_mean": load * mean,
        "load_larger": load * max(SIZE - mean, 0),
        "backlog_backlog": backlog**2,
        "kv_excess": max(quantities["kv_expected"] / 10 - 0.7, 0),
        "oldest": quantities["queue_0_age"] / 50,
    }
    return {**{name: log1p(value) for name, value in quantities.items()}, **products}


@pytest.mark.parametrize("replica", [0, 1])
def test_every_feature_of_a_replica_in_closed_form(replica: int) -> None:
    encoder = StateEncoder(3, 2)
    x, _ = encoder.encode(a_cluster(), beta=7.0)
    found = dict(zip((feature.name for feature in encoder.spec.replica), x[replica], strict=True))
    assert found == pytest.approx(expected(replica), rel=1e-12)
    assert list(found) == list(expected(replica))


def test_the_memory_is_short_on_one_replica_of_the_example() -> None:
    """So that kv_excess above is not 0 against 0 everywhere, and nor is load_larger."""
    assert expected(1)["kv_excess"] == 0.0 and expected(0)["load_larger"] >= 0.0
    cluster = a_cluster()
    cluster.hardware[1, seen.KV_TOKENS] = 2000
    encoder = StateEncoder(3, 2)
    index = encoder.spec.names()["replica"].index("kv_excess")
    assert encoder.encode(cluster, 7.0)[0][1, index] == pytest.approx((900 + 400 + 4 * MEAN_OUTPUT) / 2000 - 0.7)


def test_the_square_of_load_goes_on_as_its_tangent() -> None:
    encoder = StateEncoder(4, 0)
    x, _ = encoder.encode(observe(4, outstanding=[15, 45, 60, 300]), beta=7.0)
    found = x[:, encoder.spec.names()["replica"].index("load_load")]
    assert found == pytest.approx([0.25, 2.25, 3 * 2 - 2.25, 3 * 10 - 2.25])


def test_the_context_in_closed_form() -> None:
    encoder = StateEncoder(3, 2)
    _, context = encoder.encode(a_cluster(), beta=7.0)
    found = dict(zip((feature.name for feature in encoder.spec.context), context, strict=True))
    wanted = {
        "prompt": 400,
        "age": 0.1 / 0.020,
        "beta": 10 * 0.7**1.4,
        "expected_output": MEAN_OUTPUT,
        "all_prompts": MEAN_PROMPT,
        "replicas": 2,
        "capacity": 2.3,
        "prefill_cost": 1000 * 1e-4 / 0.020,
        "gauge_age": 0.6,
    }
    assert found == pytest.approx({name: log1p(value) for name, value in wanted.items()}, rel=1e-12)


@given(
    prompt=st.integers(1, 100_000),
    outstanding=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    completed=st.integers(0, 10_000),
)
def test_where_all_prompts_are_equal_none_is_short(prompt: int, outstanding: list[int], completed: int) -> None:
    """From the first request on, and whatever the load: what a policy does by size must not tell replicas apart."""
    tokens = [prompt * count for count in outstanding]
    cluster = observe(
        len(outstanding), prompt=prompt, outstanding=outstanding, prompt_tokens=tokens, completed=(completed, 0)
    )
    cluster.completions[seen.COMPLETED_PROMPT] = completed * prompt
    encoder = StateEncoder(len(outstanding), 0)
    x, _ = encoder.encode(cluster, beta=10.0)
    names = encoder.spec.names()["replica"]
    for name in ("mean", "size_load", "size_mean", "load_mean", "load_larger"):
        assert x[:, names.index(name)] == pytest.approx(0.0, abs=1e-9), name


def test_an_idle_replica_is_of_the_mean_size() -> None:
    encoder = StateEncoder(3, 2)
    x, context = encoder.encode(a_cluster(), beta=7.0)
    names = encoder.spec.names()
    assert x[2, names["replica"].index("mean")] == pytest.approx(0.0, abs=1e-12)
    assert x[2, names["replica"].index("mean_prompt")] == pytest.approx(context[names["context"].index("all_prompts")])


def test_without_a_queue_nothing_is_oldest() -> None:
    encoder = StateEncoder(3, 0)
    x, _ = encoder.encode(a_cluster(0), beta=7.0)
    names = encoder.spec.names()["replica"]
    wanted = expected(0)
    for name, value in zip(names, x[0], strict=True):
        assert value == pytest.approx(0.0 if name == "oldest" else wanted[name], rel=1e-12), name


@pytest.mark.parametrize("depth", [0, 1, 4, 16])
@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 16])
def test_sizes_come_from_the_cluster(replicas: int, depth: int) -> None:
    encoder = StateEncoder(replicas, depth)
    per_replica = AGGREGATES + 2 * depth + INTERACTIONS
    assert (encoder.replica_dimension, encoder.context_dimension) == (per_replica, CONTEXT)
    assert encoder.flat_dimension == replicas * (per_replica + 1) + CONTEXT
    seen_now = observe(replicas)
    ledger = np.zeros((replicas, seen.LEDGER_COLUMNS + seen.QUEUE_COLUMNS * depth))
    x, context = encoder.encode(replace(seen_now, ledger=ledger), 10.0)
    assert x.shape == (replicas, per_replica) and context.shape == (CONTEXT,)
    flat = encoder.flatten(x, context, seen_now.available)
    names = encoder.flat_names()
    assert flat.shape == (encoder.flat_dimension,) and flat.dtype == np.float32
    assert len(names) == len(set(names)) == encoder.flat_dimension


@pytest.mark.parametrize("arguments", [(0,), (-1,), (2, -1)])
def test_no_replica_or_less_than_no_queue_is_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        StateEncoder(*arguments)


def test_flatten_lays_out_replicas_then_the_context() -> None:
    encoder = StateEncoder(3, 2)
    cluster = a_cluster()
    x, context = encoder.encode(cluster, beta=7.0)
    flat = dict(zip(encoder.flat_names(), encoder.flatten(x, context, cluster.available), strict=True))
    for replica in range(2):
        for name, value in expected(replica).items():
            assert flat[f"replica_{replica}.{name}"] == pytest.approx(value, rel=1e-6)
        assert flat[f"replica_{replica}.available"] == 1.0
    # The slow replica that is away has features, and shows none.
    assert x[2].any() and not any(value for name, value in flat.items() if name.startswith("replica_2."))
    assert flat["replicas"] == pytest.approx(log(3))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_renumbering_replicas_renumbers_features_and_nothing_else(data: st.DataObject) -> None:
    replicas = data.draw(st.integers(1, 8))
    order = np.array(data.draw(st.permutations(range(replicas))))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    blank = observe(replicas)
    ledger = rng.exponential(50.0, (replicas, seen.LEDGER_COLUMNS + 2 * seen.QUEUE_COLUMNS))
    gauges = rng.random((replicas, seen.GAUGE_COLUMNS))
    gauges[:, seen.GAUGE_AGE] = 0.5
    hardware = rng.uniform(0.1, 1.0, (replicas, seen.HARDWARE_COLUMNS))
    completions = rng.exponential(100.0, seen.COMPLETION_COLUMNS)
    rows: dict[str, Any] = {"ledger": ledger, "gauges": gauges, "hardware": hardware}
    plain = replace(blank, completions=completions, **rows)
    moved = replace(plain, **{name: array[order] for name, array in rows.items()})
    x, context = StateEncoder(replicas, 2).encode(plain, 5.0)
    y, other = StateEncoder(replicas, 2).encode(moved, 5.0)
    assert y == pytest.approx(x[order], rel=1e-12)
    assert other == pytest.approx(context, rel=1e-12)


@pytest.mark.parametrize("model", ["meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3-70B"])
def test_real_observations_of_other_models_are_finite(model: str) -> None:
    """Large models too, through a failure: the units are the hardware's own."""
    flags = f"""--replica_config_model_name {model} --replica_config_tensor_parallel_size 4
        --cluster_config_num_replicas 3 --synthetic_request_generator_config_num_requests 120
        --poisson_request_interval_generator_config_qps 8
        --cluster_config_replica_events time=3,replica=1,action=fail time=9,replica=1,action=return"""
    simulator = Simulator(SimulationConfig.from_cli(flags.split()))
    encoder = StateEncoder(3, 0)
    count = 0
    while (observation := simulator.next_decision()) is not None:
        x, context = encoder.encode(observation, 10.0)
        flat = encoder.flatten(x, context, observation.available)
        assert np.isfinite(flat).all() and (np.abs(flat) < 1000).all()
        simulator.place(int(np.flatnonzero(observation.available)[count % observation.available.sum()]))
        count += 1
    assert count >= 120


def test_the_difference_of_two_specs_in_words() -> None:
    ours = EncoderSpec.of(2).names()
    assert spec_difference(ours, EncoderSpec.of(2).names()) == ""
    more = spec_difference(ours, EncoderSpec.of(3).names())
    assert "queue_2_age, queue_2_prompt" in more and "unknown" in more
    assert "lacks replica features: queue_1_age, queue_1_prompt" in spec_difference(ours, EncoderSpec.of(1).names())
    swapped = {**ours, "context": ours["context"][::-1]}
    assert spec_difference(ours, swapped) == "its context features are in another order"
