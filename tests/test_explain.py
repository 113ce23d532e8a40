"""Explaining a policy: policies whose weights say what they do are explained as doing it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from report_pages import page_and_charts

from rl.explain import __main__ as tool
from rl.explain.choices import (
    LEAST_TOKENS,
    LOR,
    POLICY,
    RANDOM,
    Decisions,
    Judged,
    choices,
    encode,
    least_tokens_scores,
    lor_scores,
    overlap,
    part_to,
    policy_scores,
)
from rl.explain.findings import Findings, explain
from rl.explain.quantities import permuted, quantities, with_value
from rl.explain.states import States, collect
from rl.explain.sweeps import LONG, SHORT, backlog, by_beta
from rl.router.checkpoint import Checkpoint
from rl.router.encoder import StateEncoder
from rl.router.features import (
    CONTEXT,
    I_BACKLOG,
    I_LOAD,
    I_SIZE_MEAN,
    I_SLOWNESS,
    INTERACTIONS,
    feature_count,
)
from rl.router.policy import NumpyPolicy, PolicyWeights
from rl.train.suite import TrainingSuite
from vidur.errors import InputError
from vidur.observation import (
    ARRIVAL_COLUMNS,
    AWAITING,
    AWAITING_TOKENS,
    GAUGE_COLUMNS,
    LEDGER_COLUMNS,
    OUTSTANDING,
    PROMPT_TOKENS,
    QUEUE_COLUMNS,
    ClusterObservation,
)
from vidur.scheduler.routers.least_tokens import choose_least_tokens
from vidur.scheduler.routers.lor import choose_lor

DEPTH = 2
BETA = 10.0
DECISIONS = 240


def random_weights(seed: int) -> PolicyWeights:
    rng = np.random.default_rng(seed)
    features, first, second = feature_count(DEPTH) - INTERACTIONS, 6, 5
    shapes = [
        (features, first),
        (CONTEXT, first),
        (3 * features, first),
        (first,),
        (first, second),
        (second,),
        (second,),
    ]
    return PolicyWeights(*(0.3 * rng.normal(size=shape) for shape in (*shapes, (INTERACTIONS,), (INTERACTIONS,))))


def only(by_interaction: dict[int, float], by_beta: dict[int, float] | None = None) -> PolicyWeights:
    """A policy whose score is a sum of interactions, and of interactions times log(1 + beta)."""
    features = feature_count(DEPTH) - INTERACTIONS
    products, growth = np.zeros(INTERACTIONS), np.zeros(INTERACTIONS)
    for interaction, weight in by_interaction.items():
        products[interaction] = weight
    for interaction, weight in (by_beta or {}).items():
        growth[interaction] = weight
    none = np.zeros(0)
    return PolicyWeights(
        np.zeros((features, 0)), np.zeros((CONTEXT, 0)), np.zeros((3 * features, 0)), none, np.zeros((0, 0)), none,
        none, products, growth,
    )  # fmt: skip


@cache
def watched(cluster: str, policy: str) -> tuple[PolicyWeights, States]:
    weights = {
        "random": lambda: random_weights(0),
        "backlog": lambda: only({I_BACKLOG: -1.0}),
        "load": lambda: only({I_LOAD: -1.0}),
        "slowness": lambda: only({I_SLOWNESS: -1.0, I_LOAD: -0.3}),
        "apart": lambda: only({I_SIZE_MEAN: 5.0, I_LOAD: -0.1}),
    }[policy]()
    (states,) = collect(weights, DEPTH, cluster, TrainingSuite.read("default"), BETA, DECISIONS, seed=3)
    return weights, states


@cache
def explained(cluster: str, policy: str) -> Findings:
    weights, states = watched(cluster, policy)
    return explain(weights, [states], seed=0)


def observation(states: States, state: int) -> ClusterObservation:
    """What the router saw in one of the states."""
    replicas = states.replicas[state].copy()
    replicas[:, OUTSTANDING] += replicas[:, AWAITING]
    replicas[:, PROMPT_TOKENS] += replicas[:, AWAITING_TOKENS]
    gauges = LEDGER_COLUMNS + QUEUE_COLUMNS * states.queue_depth
    return ClusterObservation(
        now=0.0,
        ledger=replicas[:, :gauges],
        gauges=replicas[:, gauges : gauges + GAUGE_COLUMNS],
        hardware=replicas[:, gauges + GAUGE_COLUMNS :],
        available=states.available[state],
        arrival=states.requests[state, :ARRIVAL_COLUMNS],
        completions=states.requests[state, ARRIVAL_COLUMNS:],
        placed=lambda replica: pytest.fail("nobody asks"),
    )


def test_scores_of_many_states_are_those_of_one_at_a_time() -> None:
    weights, states = watched("half_slow", "random")
    away = states.available.copy()
    away[::3, 1] = False
    some = States(**{**vars(states), "available": away})
    scores = policy_scores(weights, some)
    features, contexts = encode(some)
    encoder, policy = StateEncoder(4, DEPTH), NumpyPolicy(weights)
    for state in range(0, len(some), 5):
        seen = observation(some, state)
        x, context = encoder.encode(seen, BETA)
        np.testing.assert_allclose(features[state].T, x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(contexts[state], context, rtol=1e-12)
        np.testing.assert_allclose(scores[state], policy.scores(x, context, seen.available), rtol=1e-9, atol=1e-9)
    assert np.isneginf(scores[0, 1])


def test_policy_is_watched_on_its_own_path_as_it_serves() -> None:
    weights, states = watched("half_slow", "random")
    chosen = choices(policy_scores(weights, states))
    assert (chosen[np.arange(len(states)), states.actions] > 0).all()
    assert len(states) == DECISIONS and (states.costs >= 0).all() and (states.costs.min(1) == 0).all()


@pytest.mark.parametrize(
    ("choose", "scores", "memory"),
    [(choose_least_tokens, least_tokens_scores, [-1.0, 256.0]), (choose_lor, lor_scores, [-1.0])],
)
def test_other_schedulers_choose_as_they_do(choose, scores, memory) -> None:  # type: ignore[no-untyped-def]
    _, states = watched("half_slow", "random")
    chosen = choices(scores(states))
    for state in range(0, len(states), 7):
        seen = observation(states, state)
        replica = choose(seen.view, np.array(memory), np.zeros(1))
        assert chosen[state, replica] > 0


def test_policy_that_sees_one_thing_is_explained_by_it() -> None:
    """On equal replicas the backlog is the prompt tokens to prefill, and nothing else."""
    findings = explained("four", "backlog")
    first, *others = findings.by_quantity
    assert first.name == "prompt tokens to prefill" and first.lost > 20 and first.changed > 20
    assert all(item.lost == 0 and item.changed == pytest.approx(0) for item in others)
    assert [item.name for item in findings.by_group if item.lost] == ["prefill queue"]
    assert [item.name for item in findings.by_feature if item.changed > 1e-9] == ["backlog_linear"]
    curve = next(item for item in findings.curves if item.quantity.name == first.name)
    for kind in (SHORT, LONG):
        assert (np.diff(curve.score[kind]) < 0).all() and (np.diff(curve.chosen[kind]) <= 1e-9).all()
        assert curve.chosen[kind][0] > 40 and curve.chosen[kind][-1] < 10


def test_policy_that_sees_speed_is_explained_by_it() -> None:
    findings = explained("half_slow", "slowness")
    lost = {item.name: item.lost for item in findings.by_quantity}
    assert findings.by_quantity[0].changed > 0 and lost["relative speed"] != 0
    changed = {item.name: item.changed for item in findings.by_quantity}
    assert max(changed, key=changed.__getitem__) == "relative speed"
    # Both kinds of requests count in the load, the prompts do not.
    assert changed["decoding requests"] > 0
    assert changed["prompt tokens to prefill"] == changed["arriving prompt"] == pytest.approx(0)


def test_policy_that_is_lor_agrees_with_lor() -> None:
    findings = explained("four", "load")
    assert findings.agreement[LOR] == pytest.approx(100) and findings.agreement[POLICY] == pytest.approx(100)
    assert findings.regret[POLICY] == pytest.approx(findings.regret[LOR])
    assert findings.regret[RANDOM] == pytest.approx(100)
    assert sum(item.decisions for item in findings.by_class[:4]) == DECISIONS
    assert sum(item.decisions for item in findings.by_load) == DECISIONS
    for item in (*findings.by_class, *findings.by_load):
        assert item.agreement[LOR] == pytest.approx(100) and 0 <= item.agreement[LEAST_TOKENS] <= 100
    # Classes are parts of the whole.
    parts = sum(item.regret[LEAST_TOKENS] * item.decisions for item in findings.by_class[:4])
    assert parts / DECISIONS == pytest.approx(findings.regret[LEAST_TOKENS])


def test_policy_that_keeps_long_prompts_apart_is_seen_to() -> None:
    findings = explained("four", "apart")
    short, long = findings.by_class[0], findings.by_class[3]
    assert long.to_longest[POLICY] > 80 > 20 > short.to_longest[POLICY]
    # Half of the replicas take more of the short prompts than of the long ones, and every class is all there.
    shares = findings.roles.shares[POLICY]
    assert shares[0, :2].sum() > shares[3, :2].sum() + 20
    np.testing.assert_allclose(shares.sum(1), 100)
    assert long.busiest[POLICY] > long.busiest[LEAST_TOKENS] >= 1


def test_beta_moves_a_policy_that_heeds_it() -> None:
    _, states = watched("four", "load")
    heeds = only({I_LOAD: -30.0}, {I_BACKLOG: -3.0})
    item = by_beta(heeds, [Judged.of(heeds, states)])
    assert item.least_backlog[-1] > 90 > item.least_backlog[0]
    ignores = only({I_LOAD: -1.0})
    assert len(set(by_beta(ignores, [Judged.of(ignores, states)]).least_backlog.tolist())) == 1


def test_permuting_keeps_the_values_and_nothing_but_the_chosen_changes() -> None:
    _, states = watched("half_slow", "random")
    things = {item.name: item for item in quantities(DEPTH)}
    speed = things["relative speed"]
    changed = permuted(states, [speed], np.random.default_rng(0))
    for state in range(0, len(states), 11):
        assert sorted(changed.speed[state]) == sorted(states.speed[state])
    assert (changed.speed != states.speed).any()
    others = [column for column in range(states.replicas.shape[2]) if column not in speed.columns]
    np.testing.assert_array_equal(changed.replicas[:, :, others], states.replicas[:, :, others])
    # A speed goes with the times of the hardware.
    seconds = changed.of(speed.columns[1])
    assert len(np.unique(np.round(seconds * changed.speed, 12))) == len(
        np.unique(np.round(states.of(speed.columns[1]) * states.speed, 12))
    )
    prompt = permuted(states, [things["arriving prompt"]], np.random.default_rng(0))
    assert sorted(prompt.prompts) == sorted(states.prompts) and (prompt.prompts != states.prompts).any()


def test_a_replica_is_shown_at_another_value() -> None:
    _, states = watched("half_slow", "random")
    unread = next(item for item in quantities(DEPTH) if item.name == "prompt tokens to prefill")
    replica = np.arange(len(states)) % 4
    changed = with_value(states, unread, replica, 777.0)
    rows = np.arange(len(states))
    assert (changed.of(AWAITING_TOKENS)[rows, replica] == 777.0).all()
    others = np.arange(4) != replica[:, None]
    np.testing.assert_array_equal(changed.replicas[others], states.replicas[others])


def test_without_a_queue_there_is_no_queue_to_see() -> None:
    assert {item.name for item in quantities(1)} - {item.name for item in quantities(0)} == {
        "ages of the first in the queue", "prompts of the first in the queue",
    }  # fmt: skip


def test_equals_share_a_choice() -> None:
    chosen = choices(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, -np.inf]]))
    np.testing.assert_array_equal(chosen, [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(overlap(chosen, chosen), [1.0, 1.0])
    first = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(overlap(chosen, first), [0.5, 0.0])
    # To one of the equals is to the kind, whichever it is.
    np.testing.assert_array_equal(part_to(first, chosen), [1.0, 0.0])


def test_waste_is_zero_for_hindsight_and_a_hundred_for_chance() -> None:
    weights, states = watched("half_slow", "random")
    judged = Judged.of(weights, states)
    assert judged.regret(choices(-states.costs)).max() == 0.0
    assert Decisions.of([judged]).regret[RANDOM].mean() == pytest.approx(100)
    assert (backlog(states) >= 0).all()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "apart.safetensors"
    Checkpoint(watched("four", "apart")[0], DEPTH).save(path)
    return path


def test_command_explains_on_screen_and_in_a_page(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert tool.main(["--checkpoint", str(checkpoint), "--config", "four", "--decisions", str(DECISIONS),
                      "--seed", "3", "--output", str(page)]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    # The same seed watches the same decisions.
    weights, states = watched("four", "apart")
    findings = explain(weights, [states], seed=3)
    rows = [" ".join(line.split()) for line in printed.splitlines()]
    for label, text in findings.facts():
        assert f"{label} {text}" in rows
    for item in (*findings.by_group, *findings.by_quantity[:8]):
        assert f"{item.name} {item.lost:.1f} % {item.changed:.1f} %" in rows
    for item in (*findings.by_class, *findings.by_load):
        assert any(row.startswith(f"{item.name} {item.decisions:,} ") for row in rows)
    head, charts = page_and_charts(page)
    assert len(charts) > 15
    assert "What apart has learned" in head and f"{findings.regret[LOR]:.0f} %" in head


def test_command_takes_a_configuration(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "cluster_config:\n  num_replicas: 3\n  replica_config: {model_name: meta-llama/Meta-Llama-3-8B, device: a100}\n"
        "request_generator_config:\n  type: synthetic\n  num_requests: 240\n"
        "  length_generator_config: {type: quantile, distribution: azure_conv_2023, max_tokens: 8192}\n"
        "  interval_generator_config: {type: poisson, qps: 18}\n"
    )
    assert tool.main(["--checkpoint", str(checkpoint), "--config", str(path), "--beta", "40",
                      "--output", str(tmp_path / "page.html")]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    # A quarter of the 240 requests is the warm-up.
    assert "180 in 1 simulation, beta 40" in printed and "mine.yaml" in printed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--config", "foru"], "did you mean four"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--checkpoint", "nothing.safetensors"], "no such file"),
        (["--decisions", "5"], "--decisions"),
        (["--suite", "defualt"], "did you mean default"),
        (["--betta", "5"], "did you mean --beta"),
    ],
)
def test_bad_input_gets_one_line(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("rl.explain: error: ") and says in error


def test_one_replica_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("cluster_config:\n  num_replicas: 1\n")
    with pytest.raises(InputError, match="has one replica, so there is nothing to choose"):
        collect(only({}), DEPTH, str(path), TrainingSuite.read("default"), BETA, DECISIONS, 0)
