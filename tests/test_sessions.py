"""Generated sessions and groups: what prompts contain, who follows whom, and who is under way at the beginning."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidur.config import (
    ArrivingRequestGeneratorConfig,
    GammaRequestIntervalGeneratorConfig,
    PoissonRequestIntervalGeneratorConfig,
    PrefixGroupsRequestGeneratorConfig,
    SessionsRequestGeneratorConfig,
    SimulationConfig,
    StaticRequestIntervalGeneratorConfig,
)
from vidur.errors import InputError
from vidur.request_generator import RequestTable, generate_requests
from vidur.request_generator.content import ID_GAP, Content
from vidur.request_generator.ideal_hits import ideal_hit_rate, ideal_hits
from vidur.request_generator.session_pool import SessionPool

CONSTANT = {f"{name}_cv": 0.0 for name in ("turns", "question", "answer", "think")} | {"document_probability": 0.0}


def poisson(qps: float) -> PoissonRequestIntervalGeneratorConfig:
    return PoissonRequestIntervalGeneratorConfig(qps=qps)


def sessions(qps: float = 1.0, **values: Any) -> RequestTable:
    return generate_requests(SessionsRequestGeneratorConfig(interval_generator_config=poisson(qps), **values))


def edges(table: RequestTable) -> list[tuple[int, int]]:
    assert table.turns is not None
    parents = np.repeat(np.arange(len(table)), np.diff(table.turns.offsets))
    return list(zip(parents.tolist(), table.turns.children.tolist(), strict=True))


def runs(table: RequestTable, request: int) -> list[tuple[int, int]]:
    content = table.content
    assert content is not None
    own = slice(content.offsets[request], content.offsets[request + 1])
    return list(zip(content.first[own].tolist(), content.lengths[own].tolist(), strict=True))


def test_a_conversation_by_hand() -> None:
    table = sessions(num_sessions=1, mid_life=False, num_tenants=1, turns=3.0, system_tokens=100.0, answer_tokens=30.0,
                     question_tokens=20.0, **{**CONSTANT, "think_cv": 0.0})  # fmt: skip
    assert table.num_prefill_tokens.tolist() == [120, 170, 220]
    assert table.num_decode_tokens.tolist() == [30, 30, 30]
    assert edges(table) == [(0, 1), (1, 2)]
    assert table.turns is not None and table.turns.think.tolist() == [0.0, 20.0, 20.0]
    assert np.diff(table.arrived_at) == pytest.approx([20.6, 20.6])
    (system, length), (own, _) = runs(table, 0)
    assert length == 100
    assert [runs(table, request) for request in range(3)] == [
        [(system, 100), (own, tokens)] for tokens in (50, 100, 150)
    ]
    # Turn n + 1 finds all full blocks of turn n, answer included.
    assert ideal_hits(table, 1).tolist() == [0, 150, 200]
    assert ideal_hits(table, 16).tolist() == [0, 144, 192]
    assert ideal_hit_rate(table, 1) == 350 / 510
    assert table.source == "sessions: 3 requests of 1 sessions, 0 of them under way at 0, closed_loop, seed 42"


def test_a_burst_of_sub_agents_by_hand() -> None:
    table = sessions(num_sessions=1, mid_life=False, turns=2.0, system_tokens=100.0, answer_tokens=10.0, agents=2,
                     question_tokens=20.0, agent_probability=1.0, agent_turns=2, agent_think_seconds=1.0,
                     **CONSTANT)  # fmt: skip
    # 0: the first turn; 1 and 2 begin the agents, 3 and 4 end them; 5: the second turn, which waits for both.
    assert edges(table) == [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]
    assert table.num_prefill_tokens.tolist() == [120, 120, 120, 150, 150, 150]
    assert table.turns is not None and table.turns.think.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 20.0]
    assert table.arrived_at - table.arrived_at[0] == pytest.approx([0.0, 0.2, 0.2, 1.4, 1.4, 21.6])
    assert len({runs(table, request)[0] for request in range(6)}) == 1, "all share the system prompt"
    firsts = [runs(table, request)[1][0] for request in range(6)]
    assert firsts[0] == firsts[5] and firsts[1] == firsts[3] and firsts[2] == firsts[4]
    assert min(np.diff(sorted(set(firsts)))) >= ID_GAP
    assert set(table.session_id) == {0}


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 100),
            "num_requests": st.integers(1, 60),
            "num_tenants": st.integers(1, 4),
            "tenant_skew": st.floats(0, 3),
            "system_tokens": st.sampled_from([0.0, 40.0]),
            "system_cv": st.sampled_from([0.0, 0.5]),
            "turns": st.floats(1, 5),
            "question_tokens": st.floats(1, 50),
            "document_probability": st.sampled_from([0.0, 0.5]),
            "document_tokens": st.just(90.0),
            "agent_probability": st.sampled_from([0.0, 0.6]),
            "agents": st.integers(1, 3),
            "agent_turns": st.integers(1, 3),
            "token_seconds": st.sampled_from([0.0, 0.02]),
            "think_seconds": st.sampled_from([0.0, 5.0]),
            "agent_think_seconds": st.sampled_from([0.0, 1.0]),
            "max_tokens": st.sampled_from([400, 2000]),
            "mid_life": st.booleans(),
            "mode": st.sampled_from(["closed_loop", "open_loop"]),
        }
    )
)
def test_any_sessions_make_a_valid_table(values: dict[str, Any]) -> None:
    table = sessions(answer_tokens=20.0, **values)
    assert len(table) == values["num_requests"]
    table.validate()
    total = table.num_prefill_tokens + table.num_decode_tokens
    assert (total <= values["max_tokens"]).all()
    assert table.content is not None and table.content.tokens().tolist() == total.tolist()
    again = sessions(answer_tokens=20.0, **values)
    for name in ("arrived_at", "num_prefill_tokens", "num_decode_tokens", "session_id"):
        assert getattr(again, name).tobytes() == getattr(table, name).tobytes()
    assert again.content is not None and again.content.first.tobytes() == table.content.first.tobytes()
    if values["mode"] == "open_loop":
        assert table.turns is None
        return
    for parent, child in edges(table):
        assert table.session_id[parent] == table.session_id[child]
        before, after = runs(table, parent), runs(table, child)
        if before[-1][0] == after[-1][0]:  # The same run: the prompt is all that was said, and a question.
            assert table.num_prefill_tokens[child] > total[parent]
        elif len(before) == 2:  # From a session to its sub-agent or back: they share the system prompt.
            assert before[0] == after[0]


def test_only_tenants_share_content() -> None:
    table = sessions(num_sessions=200, num_tenants=3, mid_life=False, turns=1.0, turns_cv=0.0)
    systems = [runs(table, request)[0] for request in range(len(table))]
    assert len(set(systems)) == 3
    own = [runs(table, request)[1] for request in range(len(table))]
    ordered = sorted(own)
    assert all(first + length + ID_GAP <= after for (first, length), (after, _) in pairwise(ordered))
    # Shares of Zipf's law with exponent 1: 6/11, 3/11, 2/11.
    counts = sorted(np.unique([first for first, _ in systems], return_counts=True)[1].tolist(), reverse=True)
    assert counts == pytest.approx([200 * 6 / 11, 200 * 3 / 11, 200 * 2 / 11], abs=25)


def test_means_and_variations_are_those_asked_for() -> None:
    table = sessions(num_sessions=20_000, mid_life=False, turns=1.0, turns_cv=0.0, system_tokens=0.0,
                     answer_tokens=300.0, answer_cv=0.7, question_tokens=100.0, question_cv=0.0,
                     document_probability=0.25, document_tokens=1000.0, max_tokens=100_000)  # fmt: skip
    answers = table.num_decode_tokens
    assert answers.mean() == pytest.approx(300, rel=0.02)
    assert answers.std() / answers.mean() == pytest.approx(0.7, rel=0.05)
    assert set(table.num_prefill_tokens) == {100, 1100}
    assert (table.num_prefill_tokens == 1100).mean() == pytest.approx(0.25, abs=0.01)


def test_the_sessions_under_way_at_0_are_as_many_and_as_old_as_they_should_be() -> None:
    # Six turns, 20.1 s apart: a session lasts 100.5 s. Poisson intervals are cut: 5 / (1 - e^-3) begin in a second.
    values = {**CONSTANT, "answer_tokens": 5.0}
    table = sessions(5.0, duration=400.0, **values)
    old = round(5.0 / (1 - np.exp(-3)) * 100.5)
    assert f"{old} of them under way at 0" in table.source
    first = np.unique(table.session_id, return_index=True)[1][:old]
    turn = np.round((table.num_prefill_tokens[first] - 2150) / 155).astype(int)
    assert np.bincount(turn).tolist() == pytest.approx([0] + [old / 5] * 5, abs=4 * (old / 5) ** 0.5)
    assert table.turns is not None and (table.turns.num_parents()[first] == 0).all()
    assert table.arrived_at[first].max() <= 20.1
    # The rate of requests is the same from the beginning, which it is not without them.
    rates = np.histogram(table.arrived_at, 20, (0, 400))[0] / 20
    assert rates == pytest.approx([6 * 5 / (1 - np.exp(-3))] * 20, rel=0.25)
    cold = np.histogram(sessions(5.0, duration=400.0, mid_life=False, **values).arrived_at, 20, (0, 400))[0] / 20
    assert cold[0] < rates[0] / 2 and cold[-5:] == pytest.approx(rates[-5:], rel=0.25)


def test_long_sessions_are_met_more_often() -> None:
    config = {**CONSTANT, "turns": 5.0, "turns_cv": 1.0, "token_seconds": 0.0, "max_tokens": 1_000_000}
    turns = np.bincount(sessions(num_sessions=50_000, mid_life=False, **config).session_id)
    left = np.bincount(sessions(20.0, num_sessions=1, **config).session_id)[:-1]
    assert len(left) == pytest.approx(20 / (1 - np.exp(-3)) * 20 * (turns - 1).mean(), rel=0.1)
    # One of n turns is met n - 1 times as often as one of 2, and then has 1 to n - 1 of them left.
    assert left.mean() == pytest.approx((turns * (turns - 1) / 2).mean() / (turns - 1).mean(), rel=0.1)


def test_the_first_requests_do_not_depend_on_how_many_there_are_to_come() -> None:
    table, more = (sessions(num_sessions=n, mid_life=False, **CONSTANT) for n in (300, 900))
    early = table.arrived_at < 200
    assert (more.arrived_at[: early.sum()] == table.arrived_at[early]).all()


@pytest.mark.parametrize("qps", [0.05, 5.0])
def test_as_many_requests_as_asked_for_and_none_is_missing(qps: float) -> None:
    few = sessions(qps, num_requests=500)
    assert len(few) == 500
    last = float(few.arrived_at[-1])
    lasting = sessions(qps, duration=last)
    assert len(lasting) == pytest.approx(499, abs=250)
    assert (lasting.arrived_at < last).all()


def test_bursts_come_from_the_interval_generator() -> None:
    gamma = GammaRequestIntervalGeneratorConfig(qps=2.0, cv=4.0)
    config = SessionsRequestGeneratorConfig(interval_generator_config=gamma, turns=1.0, turns_cv=0.0, num_requests=2000)
    table = generate_requests(config)
    gaps = np.diff(table.arrived_at)
    assert gaps.std() / gaps.mean() == pytest.approx(4, rel=0.25)
    static = StaticRequestIntervalGeneratorConfig()
    table = generate_requests(SessionsRequestGeneratorConfig(interval_generator_config=static, num_sessions=7))
    assert table.turns is not None and np.count_nonzero(table.arrived_at == 0) == 7


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"max_tokens": 100}, "no session has a request of at most --sessions_request_generator_config_max_tokens 100"),
        ({"duration": 1e-9, "mid_life": False}, "no request arrives in --sessions_request_generator_config_duration"),
        ({"num_requests": None}, "num_requests or --sessions_request_generator_config_duration is needed"),
        ({"mode": "closed"}, "closed_loop"),
        ({"think_seconds": -1.0}, "think_seconds must be at least 0, not -1"),
        ({"interval_generator_config": StaticRequestIntervalGeneratorConfig()}, "num_sessions is needed if"),
        ({"interval_generator_config": poisson(1e9)}, "sessions are under way at time 0: lower the rate"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        generate_requests(SessionsRequestGeneratorConfig(**values))
    assert "\n" not in str(caught.value)


def test_a_session_ends_before_a_request_that_is_too_long() -> None:
    table = sessions(num_sessions=100, mid_life=False, **CONSTANT, max_tokens=3500)
    assert np.bincount(table.session_id).tolist() == [3] * 100, "2,000 + n (150 + 250) tokens"


@given(st.lists(st.integers(0, 2), max_size=8))
def test_taken_sessions_have_content_of_their_own(taken: list[int]) -> None:
    pool = SessionPool(
        offsets=np.array([0, 2, 3, 5]), at=np.arange(5.0), prefill=np.arange(1, 6), decode=np.arange(11, 16),
        think=np.arange(5.0), parents=np.array([0, 3]), children=np.array([1, 4]), common=100,
        content=Content(np.array([0, 1, 3, 3, 4, 4]), np.array([7, 7, 100, 130]), np.array([9, 9, 20, 5])),
    )  # fmt: skip
    copies = pool.take(np.array(taken, np.int64))
    assert copies.offsets.tolist() == np.cumsum([0, *([2, 1, 2][i] for i in taken)]).tolist()
    rows = [row for i in taken for row in range(pool.offsets[i], pool.offsets[i + 1])]
    assert copies.prefill.tolist() == [row + 1 for row in rows]
    expected = [copies.offsets[k] for k, i in enumerate(taken) if i != 1]
    assert (copies.parents.tolist(), copies.children.tolist()) == (expected, [row + 1 for row in expected])
    used = []
    for k, i in enumerate(taken):
        start, stop = copies.content.offsets[copies.offsets[k]], copies.content.offsets[copies.offsets[k + 1]]
        first, lengths = copies.content.first[start:stop].tolist(), copies.content.lengths[start:stop].tolist()
        assert lengths == [[9, 9, 20], [], [5]][i]
        assert [id_ for id_ in first if id_ < 100] == [[7, 7], [], []][i]
        used += [(id_, id_ + length) for id_, length in zip(first, lengths, strict=True) if id_ >= 100]
    assert all(end + ID_GAP <= begin for (_, end), (begin, _) in pairwise(used))


def groups(**values: Any) -> RequestTable:
    return generate_requests(PrefixGroupsRequestGeneratorConfig(**values))


def test_groups_with_new_questions_are_vllm_s_prefix_repetition() -> None:
    table = groups(num_groups=10, users_per_group=1, system_tokens=256, question_tokens=256, output_tokens=128,
                   num_requests=1000)  # fmt: skip
    assert set(table.num_prefill_tokens) == {512} and set(table.num_decode_tokens) == {128}
    assert np.bincount(table.session_id).tolist() == [100] * 10
    assert ideal_hit_rate(table, 16) == pytest.approx(990 * 256 / (1000 * 512))
    assert len({runs(table, request)[0] for request in range(1000)}) == 10
    assert len({runs(table, request)[1] for request in range(1000)}) == 1000


def test_groups_that_repeat_their_questions_are_inference_perf_s_shared_prefix() -> None:
    table = groups(num_groups=6, users_per_group=4, system_tokens=100, question_tokens=50, repeat_questions=True,
                   num_requests=72)  # fmt: skip
    dealt = table.session_id.reshape(3, 24)
    assert sorted(dealt[0]) == list(range(24)) and (dealt[0] != np.arange(24)).any() and (dealt == dealt[0]).all()
    # The first round finds its group's prompt, the others all but a token.
    assert ideal_hits(table, 1).sum() == (24 - 6) * 100 + 48 * 149
    assert len({tuple(runs(table, request)) for request in range(72)}) == 24


def test_the_default_groups_are_llm_d_s_benchmark() -> None:
    table = groups(num_requests=7500)
    assert table.num_prefill_tokens[0] == 7200 and table.num_decode_tokens[0] == 1000
    assert np.bincount(table.session_id).tolist() == [10] * 750
    assert ideal_hit_rate(table, 16) == pytest.approx((7500 - 150) * 6000 / (7500 * 7200))
    without = groups(num_requests=10, system_tokens=0, question_tokens=5)
    assert ideal_hit_rate(without, 1) == 0.0 and without.content is not None
    assert without.content.tokens().tolist() == [5] * 10


def test_the_interval_generator_is_every_generator_s(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--interval_generator_config_type", "gamma", "--gamma_request_interval_generator_config_qps", "3"]
    for name in ("synthetic", "sessions", "session_trace", "prefix_groups", "shared_prefix", "prefix_repetition"):
        config = SimulationConfig.from_cli(["--request_generator_config_type", name, *flags]).request_generator_config
        assert isinstance(config, ArrivingRequestGeneratorConfig)
        assert config.interval_generator_config == GammaRequestIntervalGeneratorConfig(qps=3.0)
    assert not capsys.readouterr().err
    SimulationConfig.from_cli(["--request_generator_config_type", "servegen", *flags])
    assert "interval_generator_config_type has no effect with" in capsys.readouterr().err
